package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mustServe(t *testing.T) context.Context {
	t.Helper()
	inCall, err := serve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return inCall
}

func mustLoad(t *testing.T, e engine, grants []grant) decider {
	t.Helper()
	decide, err := e.load(grants)
	if err != nil {
		t.Fatalf("load %s: %v", e.name, err)
	}
	return decide
}

// mixed makes questions of which some have a rule: peers and methods of the rules in any combination, and some that no rule names.
func mixed(grants []grant, n int) []question {
	random := rand.New(rand.NewPCG(3, 4))
	var questions []question
	for range n {
		g := grants[random.IntN(len(grants))]
		q := question{peer: id(g.peers[random.IntN(len(g.peers))]), method: g.full()}
		switch random.IntN(8) {
		case 0:
			q.peer = id("/team-999/stranger-000001")
		case 1:
			q.peer = id(q.peer.Path() + "0") // it begins as the peer of a rule
		case 2:
			q.method = "/bank.other.v1.OtherService/Method0"
		case 3:
			q.method += "0"
		case 4:
			q.method = grants[random.IntN(len(grants))].full()
		}
		questions = append(questions, q)
	}
	return questions
}

// The comparison is fair only if all say the same, as a map does.
func TestAllEnginesDecideAlike(t *testing.T) {
	t.Parallel()
	for _, c := range contests(mustServe(t)) {
		for _, e := range c.engines {
			for _, s := range c.shapes {
				for _, n := range []int{10, 300} {
					t.Run(fmt.Sprintf("%s/%s/%s/%d", c.title, e.name, s, n), func(t *testing.T) {
						t.Parallel()
						grants := generate(s, n)
						decide, want := mustLoad(t, e, grants), mustLoad(t, floor(), grants)
						for _, q := range append(mixed(grants, 300), inTurn(grants)...) {
							wanted, _ := want(q)()
							decision := decide(q)
							for range 2 { // one that is remembered is a decision too
								if got, err := decision(); err != nil || got != wanted {
									t.Errorf("%s calls %s: got %v, error %v, want %v", q.peer, q.method, got, err, wanted)
								}
							}
						}
					})
				}
			}
		}
	}
}

// A condition that holds for everything would cost what one costs that nobody looks at.
func TestConditionsAreEvaluated(t *testing.T) {
	t.Parallel()
	grants := generate(heaped, 10)
	for _, test := range []struct {
		size int32
		want bool
	}{{pageSize, true}, {101, false}} {
		for name, e := range map[string]engine{"countersign": countersignConditional(test.size), "cedar": cedarConditional(int64(test.size))} {
			if got, err := mustLoad(t, e, grants)(last(grants)[0])(); err != nil || got != test.want {
				t.Errorf("%s, with a page of %d: got %v, error %v, want %v", name, test.size, got, err, test.want)
			}
		}
	}
}

func TestOursAllocatesNothingForAnAllowedCall(t *testing.T) {
	grants := generate(spread, 1000)
	for name, e := range map[string]engine{"the policy": countersign(), "the interceptor": guard(mustServe(t))} {
		decide := mustLoad(t, e, grants)(last(grants)[0])
		allocs := testing.AllocsPerRun(100, func() {
			if allowed, err := decide(); err != nil || !allowed {
				t.Errorf("%s: allowed %v, error %v", name, allowed, err)
			}
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations, want 0", name, allocs)
		}
	}
}
