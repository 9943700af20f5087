package rollout_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policyfile"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rollout"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

const b, c, d = "spiffe://bank.test/b", "spiffe://bank.test/c", "spiffe://bank.test/d"

// without returns the rules with something else in place of a part of them.
func without(part, instead string) string {
	if strings.Count(rules, part) != 1 {
		panic(part)
	}
	return strings.Replace(rules, part, instead, 1)
}

func TestAPolicyStaysOrTheOldOneIsPutBack(t *testing.T) {
	t.Parallel()
	const watch = 30 * time.Second
	noMoreC := without(", {peer: /c}", "")
	for name, test := range map[string]struct {
		before, after string // rules and noMoreC by default
		// watching happens once the new policy is in force everywhere.
		watching func(w *world, cancel func())
		max      int
		refuses  func(server, text string) string
		// back is what is said of the reason for which the old policy is put back; empty when the new one stays.
		back   string
		denied []rollout.Denied
		took   time.Duration // at most
	}{
		"nothing is denied": {took: watch + 2*time.Second},
		"a permission that is used is taken away": {
			watching: func(w *world, _ func()) { w.denied(1, c, get, w.r.New.Version()) },
			back:     "denied that were let in before",
			denied:   []rollout.Denied{{Peer: c, Method: get, Count: 1, DecisionID: "c0"}},
			took:     time.Second,
		},
		"what was denied before is denied": {
			watching: func(w *world, _ func()) {
				w.denied(3, d, get, w.r.New.Version())
				w.denied(3, "", get, w.r.New.Version())
				w.denied(3, c, "/a.v1.A/Unknown", w.r.New.Version())
			},
			took: watch + 2*time.Second,
		},
		"the old policy denies, where it is still in force": {
			watching: func(w *world, _ func()) { w.denied(3, c, get, w.r.Old.Version()) },
			took:     watch + 2*time.Second,
		},
		"as many calls are denied as may be": {
			watching: func(w *world, _ func()) { w.denied(3, c, get, w.r.New.Version()) },
			max:      3, took: watch + 2*time.Second,
			denied: []rollout.Denied{{Peer: c, Method: get, Count: 3, DecisionID: "c0"}},
		},
		"one more is denied than may be": {
			watching: func(w *world, _ func()) {
				w.denied(1, c, get, w.r.New.Version())
				w.denied(3, b, get, w.r.New.Version())
			},
			after: without("[{peer: /b}, {peer: /c}]}", "[]}"), max: 3, back: "denied that were let in before", took: time.Second,
			denied: []rollout.Denied{{Peer: b, Method: get, Count: 3, DecisionID: "b0"}, {Peer: c, Method: get, Count: 1, DecisionID: "c0"}},
		},
		"the last call of the watch is denied, and its record comes late": {
			watching: func(w *world, _ func()) {
				time.AfterFunc(watch+900*time.Millisecond, func() { w.denied(1, c, get, w.r.New.Version()) })
			},
			back:   "denied that were let in before",
			denied: []rollout.Denied{{Peer: c, Method: get, Count: 1, DecisionID: "c0"}}, took: watch + time.Second,
		},
		"a condition is harder than before": {
			after:    without("request.x > 1", "request.x > 2"),
			watching: func(w *world, _ func()) { w.denied(1, b, put, w.r.New.Version()) },
			back:     "denied that were let in before",
			denied:   []rollout.Denied{{Peer: b, Method: put, Count: 1, DecisionID: "b0"}}, took: time.Second,
		},
		"a condition that is as it was denies": {
			watching: func(w *world, _ func()) { w.denied(3, b, put, w.r.New.Version()) },
			took:     watch + 2*time.Second,
		},
		"a condition comes where there was none": {
			after:    without("{peer: /c}", "{peer: /c, when: request.x > 1}"),
			watching: func(w *world, _ func()) { w.denied(1, c, get, w.r.New.Version()) },
			back:     "denied that were let in before",
			denied:   []rollout.Denied{{Peer: c, Method: get, Count: 1, DecisionID: "c0"}}, took: time.Second,
		},
		"whoever is revoked now is denied": {
			after:    rules + "revoked: [{id: /c}]\n",
			watching: func(w *world, _ func()) { w.denied(1, c, get, w.r.New.Version()) },
			back:     "denied that were let in before",
			denied:   []rollout.Denied{{Peer: c, Method: get, Count: 1, DecisionID: "c0"}}, took: time.Second,
		},
		"a service refuses it": {
			refuses: func(server, text string) string {
				if server == "two" && text == noMoreC {
					return "p.yaml:9: two has no such method"
				}
				return ""
			},
			back: "two: it does not take the file as it is and keeps", took: time.Second,
		},
		"a service refuses it that another one has not looked at": {
			refuses: func(server, text string) string {
				return map[string]string{"one" + noMoreC: stuck, "two" + noMoreC: "p.yaml:9: two has no such method"}[server+text]
			},
			back: "two: it does not take the file as it is and keeps", took: time.Second,
		},
		"a service refuses it, and sees late that the old one is back": {
			refuses: refusesFor(noMoreC, 2*time.Second),
			back:    "it does not take the file as it is and keeps", took: 3 * time.Second,
		},
		"a service never looks at it": {
			refuses: func(server, text string) string { return map[string]string{"one" + noMoreC: stuck}[server+text] },
			back:    "one: it still has the policy", took: 11 * time.Second,
		},
		"it is interrupted": {
			watching: func(_ *world, cancel func()) { cancel() },
			back:     "it was interrupted", took: time.Second,
		},
		"the audit service goes away": {
			watching: func(w *world, _ func()) {
				w.set(func() { w.down = status.Error(codes.Unavailable, "connection refused") })
				w.record(&auditv1.StoredRecord{})
			},
			back: "the decisions cannot be watched any more", took: 6 * time.Second,
		},
		"the audit service does not let us watch any more": {
			watching: func(w *world, _ func()) {
				w.set(func() { w.noWatch = status.Error(codes.PermissionDenied, "permission denied") })
				w.record(&auditv1.StoredRecord{})
			},
			back: "the decisions cannot be watched any more", took: time.Second,
		},
		"the audit service says nothing any more": {
			watching: func(w *world, _ func()) {
				w.set(func() { w.deaf = true })
				w.denied(1, c, get, w.r.New.Version())
			},
			back: "it is not known what it denied", took: watch + 7*time.Second,
		},
		"a call is denied while the stream is away": {
			watching: func(w *world, _ func()) {
				w.set(func() { w.streams++ }) // that of before ends
				w.denied(1, c, get, w.r.New.Version())
			},
			back:   "denied that were let in before",
			denied: []rollout.Denied{{Peer: c, Method: get, Count: 1, DecisionID: "c0"}}, took: time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				before, after := rules, noMoreC
				if test.after != "" {
					after = test.after
				}
				w := newWorld(t, before, after)
				w.r.Watch, w.r.MaxDenials = watch, test.max
				if test.refuses != nil {
					w.refuses = test.refuses
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				w.watching = func() {
					if test.watching != nil {
						test.watching(w, cancel)
					}
				}
				begin := time.Now()
				outcome, err := w.r.Run(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if (outcome.RolledBack != nil) != (test.back != "") || outcome.RolledBack != nil && !strings.Contains(outcome.RolledBack.Error(), test.back) {
					t.Errorf("the old policy is back because %v, want %q", outcome.RolledBack, test.back)
				}
				if diff := cmp.Diff(test.denied, outcome.Denied); diff != "" {
					t.Errorf("what was denied, want (-) and got (+):\n%s", diff)
				}
				if took := time.Since(begin); took > test.took {
					t.Errorf("it took %v, want %v at most", took, test.took)
				}
				want, version := map[string]string{"p.yaml": before}, w.r.Old.Version()
				if test.back == "" {
					want, version = map[string]string{"p.yaml": after, "p.yaml.before-" + version: before}, w.r.New.Version()
				}
				if diff := cmp.Diff(want, w.files(t)); diff != "" {
					t.Errorf("the files, want (-) and got (+):\n%s", diff)
				}
				if diff := cmp.Diff(map[string]string{"one": version, "two": version}, w.force); diff != "" {
					t.Errorf("in force, want (-) and got (+):\n%s", diff)
				}
			})
		})
	}
}

// refusesFor has the servers refuse a text, and say so for a while once another one is there.
func refusesFor(refused string, while time.Duration) func(server, text string) string {
	var until time.Time
	return func(_, text string) string {
		if text == refused {
			until = time.Now().Add(while)
		}
		if time.Now().Before(until) {
			return "p.yaml:9: no such method"
		}
		return ""
	}
}

// What somebody else writes while a policy is watched is theirs, whatever the policy denies.
func TestWhatSomebodyElseWroteIsNotPutBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, rules, without(", {peer: /c}", ""))
		w.r.Watch = time.Second
		theirs := w.changed + "revoked: [{id: /d}]\n"
		w.watching = func() {
			w.write(t, theirs)
			w.denied(1, c, get, w.r.New.Version())
		}
		outcome, err := w.r.Run(t.Context())
		kept := w.path + ".before-" + w.r.Old.Version()
		if !errors.Is(err, policyfile.ErrStale) || !strings.Contains(err.Error(), "it is kept in "+kept) || outcome.Copy != kept || len(outcome.Denied) != 1 {
			t.Errorf("the error is %v, and the outcome %+v", err, outcome)
		}
		if diff := cmp.Diff(map[string]string{"p.yaml": theirs, filepath.Base(kept): rules}, w.files(t)); diff != "" {
			t.Errorf("the files, want (-) and got (+):\n%s", diff)
		}
	})
}

func TestASecondInterruptEndsTheWaitForTheOldPolicy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, rules, without(", {peer: /c}", ""))
		w.r.Watch = time.Minute
		hurry := make(chan struct{})
		w.r.Hurry = hurry
		ctx, cancel := context.WithCancel(t.Context())
		w.watching = func() {
			w.set(func() {
				w.refuses = func(server, _ string) string { return map[string]string{"two": "it is stuck"}[server] }
			})
			cancel()
		}
		time.AfterFunc(time.Second, func() { close(hurry) })
		begin := time.Now()
		outcome, err := w.r.Run(ctx)
		if err == nil || !strings.Contains(err.Error(), "not known to be in force everywhere:\ntwo: ") || outcome.RolledBack == nil || outcome.Copy != "" {
			t.Errorf("%v, %+v", err, outcome)
		}
		if took := time.Since(begin); took > 1100*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		if diff := cmp.Diff(map[string]string{"p.yaml": rules}, w.files(t)); diff != "" {
			t.Errorf("the files, want (-) and got (+):\n%s", diff)
		}
	})
}

func TestWithoutAnAuditServiceTheServicesAreWaitedForAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, rules, without(", {peer: /c}", ""))
		w.r.Audit, w.r.Watch = nil, time.Hour
		begin := time.Now()
		outcome, err := w.r.Run(t.Context())
		if err != nil || outcome.RolledBack != nil || time.Since(begin) > time.Second {
			t.Errorf("%v, %+v after %v", err, outcome, time.Since(begin))
		}
	})
}

// Where nothing is decided there is nothing to wait for.
func TestAPolicyStaysInAMeshInWhichNothingHappens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, rules, without(", {peer: /c}", ""))
		w.record(&auditv1.StoredRecord{})
		w.quiet, w.r.Watch = true, time.Second
		begin := time.Now()
		outcome, err := w.r.Run(t.Context())
		if err != nil || outcome.RolledBack != nil || time.Since(begin) > 3*time.Second {
			t.Errorf("%v, %+v after %v", err, outcome, time.Since(begin))
		}
	})
}

func TestWhatWasLostIsCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, rules, without(", {peer: /c}", ""))
		w.r.Watch = time.Second
		w.watching = func() {
			w.record(&auditv1.StoredRecord{Event: &auditv1.StoredRecord_Gap{Gap: &auditv1.Gap{LostCount: 7}}})
			w.denied(2, d, get, w.r.New.Version())
		}
		outcome, err := w.r.Run(t.Context())
		if err != nil || outcome.RolledBack != nil || outcome.Lost != 7 || outcome.Decided != 2 {
			t.Errorf("%v, %+v", err, outcome)
		}
	})
}
