package authz_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/countersign-mesh/countersign/pkg/audit"
	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

// alice is a user whose token is good for the transfer with this ID.
func alice(id string) *policy.User {
	u := paying(id)
	u.Transaction = "txn-1"
	return u
}

// named is whom the last record names.
func named(t *testing.T, recorded *records) [2]string {
	t.Helper()
	recorded.mu.Lock()
	defer recorded.mu.Unlock()
	if len(recorded.list) == 0 {
		t.Fatal("nothing was recorded")
	}
	last := recorded.list[len(recorded.list)-1]
	return [2]string{last.Subject, last.TransactionID}
}

// Who was verified is in the record, above all in that of a denial; who was not is in none.
func TestTheRecordNamesAVerifiedUserAndNoOther(t *testing.T) {
	t.Parallel()
	const plain, inShadow = "peer: /payments", "peer: /payments, shadow: true, user: transfer}\n          - {peer: /payments"
	nobody, her := [2]string{}, [2]string{"alice", "txn-1"}
	other := alice("p-1")
	other.Scope = "accounts.read"
	for name, test := range map[string]struct {
		rule    string
		users   *users
		request string
		want    [2]string
	}{
		"her own":                  {forTransfer, &users{user: alice("p-1")}, "p-1", her},
		"replayed for another":     {forTransfer, &users{user: alice("p-1")}, "p-2", her},
		"for another scope":        {forTransfer, &users{user: other}, "p-1", her},
		"kept out by a rule":       {plain + "}\n        deny:\n          - {" + forTransfer, &users{user: alice("p-1")}, "p-1", her},
		"a rule in shadow asks":    {inShadow, &users{user: alice("p-1")}, "p-1", her},
		"no token":                 {forTransfer, &users{err: policy.ErrNoUser}, "p-1", nobody},
		"a forged one":             {forTransfer, &users{user: alice("p-1"), err: errors.New("it is forged")}, "p-1", nobody},
		"nobody can tell":          {forTransfer, &users{user: alice("p-1"), err: fmt.Errorf("%w: no keys", authz.ErrUnavailable)}, "p-1", nobody},
		"a forged one in shadow":   {inShadow, &users{user: alice("p-1"), err: errors.New("it is forged")}, "p-1", nobody},
		"no rule asks":             {plain, &users{user: alice("p-1")}, "p-1", nobody},
		"a rule for another peer":  {"peer: /risk, user: transfer", &users{user: alice("p-1")}, "p-1", nobody},
		"it is denied before that": {forTransfer + "}\n        deny:\n          - {" + plain, &users{user: alice("p-1")}, "p-1", nobody},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			guard, _, recorded := guardedFor(t, userText(test.rule), test.users)
			_, _ = callWith(guard, payments, post, transfer(test.request))
			if got := named(t, recorded); got != test.want {
				t.Errorf("a call: the record names %q, want %q", got, test.want)
			}
			guard, _, recorded = guardedFor(t, userText(test.rule), test.users)
			ss := &incoming{stream: stream{ctx: callFrom(payments)}, messages: []proto.Message{transfer(test.request)}}
			_ = guard.Stream()(nil, ss, &grpc.StreamServerInfo{FullMethod: post, IsClientStream: true}, func(_ any, ss grpc.ServerStream) error { return receive(ss) })
			if got := named(t, recorded); got != test.want {
				t.Errorf("a stream: the record names %q, want %q", got, test.want)
			}
			if len(recorded.list) != 1 {
				t.Errorf("%d decisions on one stream", len(recorded.list))
			}
		})
	}
}

// By the time of a decision the token of a stream may have ended: then nobody vouches for the user any more.
func TestTheRecordOfAStreamNamesItsUserWhileTheTokenIsGood(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		now  int64
		next string
		want string
	}{
		"another policy that asks":           {0, userText(forScope) + "# reviewed\n", "alice"},
		"one that asks for another scope":    {0, userText("peer: /payments, user: accounts.read"), "alice"},
		"one that does not ask":              {0, userText("peer: /payments"), "alice"},
		"that, when the token has ended":     {1000, userText("peer: /payments"), ""},
		"a denial, when the token has ended": {1000, userText("peer: /payments, user: accounts.read"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var now atomic.Int64
			guard, source, recorded := guardedFor(t, userText(forScope), &users{user: alice("")}, authz.WithClock(func() time.Time { return time.Unix(now.Load(), 0) }))
			_ = open(guard, payments, func(ss grpc.ServerStream) error {
				if got := named(t, recorded); got[0] != "alice" {
					t.Errorf("when it was opened the record names %q", got)
				}
				now.Store(test.now)
				source.replace(mustParse(t, test.next), true)
				return ss.SendMsg(nil)
			})
			if got := named(t, recorded); got[0] != test.want || len(recorded.list) != 2 {
				t.Errorf("the last of %d records names %q, want %q", len(recorded.list), got, test.want)
			}
		})
	}
}

type nowhere struct{}

func (nowhere) Record(audit.Decision) {}

// The record of a call that nothing is asked of is part of what each call costs.
func TestADecisionThatIsRecordedDoesNotAllocate(t *testing.T) {
	guard, _, _ := guardedFor(t, userText("peer: /payments"), &users{user: alice("p-1")}, authz.WithRecorder(nowhere{}))
	unary, info := guard.Unary(), &grpc.UnaryServerInfo{FullMethod: post}
	ctx, request := callFrom(payments), transfer("p-1")
	handler := func(context.Context, any) (any, error) { return nil, nil }
	if n := testing.AllocsPerRun(100, func() { _, _ = unary(ctx, request, info, handler) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
