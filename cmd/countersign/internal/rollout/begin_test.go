package rollout_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policyfile"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rollout"
)

func TestAChangeIsNotBegunThatCouldNotBeFollowed(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		after   string
		prepare func(t *testing.T, w *world)
		want    string
	}{
		"a service does not have the policy of the file": {
			prepare: func(_ *testing.T, w *world) {
				w.refuses = func(server, _ string) string { return map[string]string{"two": "p.yaml:9: no such method"}[server] }
			},
			want: "is not in force everywhere:\ntwo: it does not take the file as it is",
		},
		"the decisions may not be watched": {
			prepare: func(_ *testing.T, w *world) { w.noWatch = status.Error(codes.PermissionDenied, "permission denied") },
			want:    "what the new policy denies could not be watched (--no-watch changes it all the same)",
		},
		"the audit service is away": {
			prepare: func(_ *testing.T, w *world) { w.down = status.Error(codes.Unavailable, "connection refused") },
			want:    "what the new policy denies could not be watched",
		},
		"the audit service says nothing": {
			prepare: func(_ *testing.T, w *world) { w.deaf = true },
			want:    "what the new policy denies could not be watched",
		},
		"the new policy does not let us ask who has it": {
			after: without("GetPolicy: {allow: [{peer: /operator}]}", "GetPolicy: {allow: []}"),
			want:  "does not let spiffe://bank.test/operator call /mesh.admin.v1.AdminService/GetPolicy",
		},
		"the new policy does not let us watch": {
			after: without("WatchDecisions: {allow: [{peer: /operator}]}", "WatchDecisions: {allow: []}"),
			want:  "does not let spiffe://bank.test/operator call /mesh.audit.v1.AuditService/WatchDecisions",
		},
		"the new policy revokes us": {
			after: rules + "revoked: [{id: /operator}]\n",
			want:  "does not let spiffe://bank.test/operator call",
		},
		"somebody else changed the file since": {
			prepare: func(t *testing.T, w *world) {
				w.r.Servers = nil
				w.write(t, rules+"# theirs\n")
			},
			want: policyfile.ErrStale.Error(),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				after := rules + "# ours\n"
				if test.after != "" {
					after = test.after
				}
				w := newWorld(t, rules, after)
				w.r.Watch = time.Second
				if test.prepare != nil {
					test.prepare(t, w)
				}
				before := w.files(t)
				outcome, err := w.r.Run(t.Context())
				if err == nil || !strings.HasPrefix(err.Error(), "nothing was changed: ") || !strings.Contains(err.Error(), test.want) {
					t.Errorf("the error is %v, want %q", err, test.want)
				}
				if diff := cmp.Diff(rollout.Outcome{}, outcome); diff != "" {
					t.Errorf("something happened: %s", diff)
				}
				if diff := cmp.Diff(before, w.files(t)); diff != "" {
					t.Errorf("the files, want (-) and got (+):\n%s", diff)
				}
			})
		})
	}
}
