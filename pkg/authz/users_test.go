package authz_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

// userText is a policy with one rule for PostTransfer, the inside of a flow mapping.
func userText(rules ...string) string {
	text := "trust_domain: bank.test\nservices:\n  bank.ledger.v1.LedgerService:\n    methods:\n      PostTransfer:\n        allow:\n"
	for _, r := range rules {
		text += "          - {" + r + "}\n"
	}
	return text
}

const (
	forTransfer = "peer: /payments, user: transfer, when: request.transfer_id == user.context.payment_id"
	forScope    = "peer: /payments, user: transfer"
)

type userKey struct{}

// users are an authz.Users that says the same of each call.
type users struct {
	user  *policy.User
	err   error
	asked atomic.Int32
}

func (u *users) User(ctx context.Context) (context.Context, *policy.User, error) {
	u.asked.Add(1)
	return context.WithValue(ctx, userKey{}, "a user"), u.user, u.err
}

func paying(id string) *policy.User {
	return &policy.User{Subject: "alice", Scope: "transfer", Context: map[string]string{"payment_id": id}, Expires: time.Unix(1000, 0)}
}

func guardedFor(t *testing.T, text string, u authz.Users, opts ...authz.GuardOption) (*authz.Guard, *policies, *records) {
	t.Helper()
	source, recorded := newPolicies(mustParse(t, text)), &records{}
	opts = append([]authz.GuardOption{authz.WithRecorder(recorded), authz.WithLogger(slog.New(slog.DiscardHandler)), authz.WithUsers(u)}, opts...)
	return authz.NewGuard(source, opts...), source, recorded
}

// ATTACKS 59: peer, user and content must all match. The token is looked at once, in the interceptor and not at admission, and only where a rule asks.
func TestARuleAsksForAUser(t *testing.T) {
	t.Parallel()
	errAway := fmt.Errorf("%w: no keys", authz.ErrUnavailable)
	for name, test := range map[string]struct {
		rule    string
		users   *users
		request string
		want    codes.Code
		asked   int32
		reason  string
	}{
		"the user's own":          {forTransfer, &users{user: paying("p-1")}, "p-1", codes.OK, 1, ""},
		"replayed for another":    {forTransfer, &users{user: paying("p-1")}, "p-2", codes.PermissionDenied, 1, "which this call is not"},
		"another scope":           {forTransfer, &users{user: &policy.User{Scope: "accounts.read"}}, "p-1", codes.PermissionDenied, 1, `the token is for "accounts.read"`},
		"no token":                {forTransfer, &users{err: policy.ErrNoUser}, "p-1", codes.PermissionDenied, 1, "the call carries no user's token"},
		"no user and no error":    {forTransfer, &users{}, "p-1", codes.PermissionDenied, 1, "the call carries no user's token"},
		"a user beside an error":  {forTransfer, &users{user: paying("p-1"), err: errors.New("it is forged")}, "p-1", codes.PermissionDenied, 1, "it is forged"},
		"nobody can tell":         {forTransfer, &users{err: errAway}, "p-1", codes.Unavailable, 1, "no keys"},
		"nobody is asked":         {"peer: /payments", &users{err: errAway}, "p-1", codes.OK, 0, ""},
		"it is for another peer":  {"peer: /risk, user: transfer", &users{user: paying("p-1")}, "p-1", codes.PermissionDenied, 0, "the caller is /payments"},
		"a rule in shadow":        {"peer: /payments, shadow: true, user: transfer}\n          - {peer: /payments", &users{err: policy.ErrNoUser}, "p-1", codes.OK, 1, ""},
		"in shadow, with a user":  {"peer: /payments, shadow: true, user: transfer}\n          - {peer: /payments", &users{user: paying("p-1")}, "p-1", codes.OK, 1, ""},
		"in shadow, nobody tells": {"peer: /payments, shadow: true, user: transfer}\n          - {peer: /payments, when: request.transfer_id == \"p-2\"", &users{err: errAway}, "p-1", codes.PermissionDenied, 1, "which this call is not"},
		"a rule that is narrower": {"peer: /**, user: transfer}\n          - {peer: /payments", &users{err: errAway}, "p-1", codes.OK, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			guard, _, recorded := guardedFor(t, userText(test.rule), test.users)
			if err := guard.Admit(callFrom(payments), post); (err != nil) != (test.asked == 0 && test.want != codes.OK) {
				t.Fatalf("at admission: %v", err)
			}
			if n := test.users.asked.Load(); n != 0 {
				t.Errorf("the user was looked for %d times at admission", n)
			}
			if len(recorded.list) > 0 { // refused by the headers
				return
			}
			var seen any
			_, err := guard.Unary()(callFrom(payments), transfer(test.request), &grpc.UnaryServerInfo{FullMethod: post}, func(ctx context.Context, _ any) (any, error) {
				seen = ctx.Value(userKey{})
				return nil, nil
			})
			if status.Code(err) != test.want || test.users.asked.Load() != test.asked {
				t.Errorf("%v, and the user was looked for %d times", err, test.users.asked.Load())
			}
			// What is in shadow changes nothing, not for the handler either.
			if want := test.want == codes.OK && test.asked == 1 && !strings.Contains(test.rule, "shadow"); (seen != nil) != want {
				t.Errorf("the handler saw %v", seen)
			}
			if len(recorded.list) != 1 || recorded.list[0].Allowed != (test.want == codes.OK) || !strings.Contains(recorded.list[0].Reason, test.reason) {
				t.Errorf("recorded %+v", recorded.list)
			}
			if err != nil && strings.Contains(err.Error(), "token") {
				t.Errorf("the caller learns why: %v", err)
			}
		})
	}
}

func TestWithoutUsersARuleWithOneAllowsNothing(t *testing.T) {
	t.Parallel()
	guard, _, recorded, _ := guarded(t, userText(forScope))
	if reached, err := callWith(guard, payments, post, transfer("p-1")); reached || status.Code(err) != codes.PermissionDenied {
		t.Errorf("reached %t, %v", reached, err)
	}
	if len(recorded.list) != 1 || !strings.Contains(recorded.list[0].Reason, "this server verifies no users' tokens") {
		t.Errorf("recorded %+v", recorded.list)
	}
}

// A stream keeps its user for all its messages, and is looked at with it under each policy that is asked before the token has ended.
func TestAStreamKeepsItsUser(t *testing.T) {
	t.Parallel()
	another := func(text string) string { return text + "# reviewed\n" }
	for name, test := range map[string]struct {
		first, next string
		users       *users
		late        bool // the token has ended when the next policy comes
		want        codes.Code
		recorded    int
	}{
		"the same policy":                     {userText(forScope), "", &users{user: paying("")}, true, codes.OK, 1},
		"another, while the token is good":    {userText(forScope), another(userText(forScope)), &users{user: paying("")}, false, codes.OK, 2},
		"another, when the token has ended":   {userText(forScope), another(userText(forScope)), &users{user: paying("")}, true, codes.Unavailable, 1},
		"one that asks for no user any more":  {userText(forScope), userText("peer: /payments"), &users{user: paying("")}, true, codes.OK, 2},
		"one that asks for another scope":     {userText(forScope), userText("peer: /payments, user: accounts.read"), &users{user: paying("")}, false, codes.PermissionDenied, 2},
		"the same, when the token has ended":  {userText(forScope), userText("peer: /payments, user: accounts.read"), &users{user: paying("")}, true, codes.PermissionDenied, 2},
		"one that is the first with a user":   {userText("peer: /payments"), userText(forScope), &users{user: paying("")}, false, codes.Unavailable, 1},
		"the first, and the call has no user": {userText("peer: /payments"), userText(forScope), &users{err: policy.ErrNoUser}, false, codes.PermissionDenied, 2},
		"the first, in shadow":                {userText("peer: /payments"), userText("peer: /payments", forScope+", shadow: true"), &users{user: paying("")}, false, codes.OK, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var now atomic.Int64
			guard, source, recorded := guardedFor(t, test.first, test.users, authz.WithClock(func() time.Time { return time.Unix(now.Load(), 0) }))
			err := open(guard, payments, func(ss grpc.ServerStream) error {
				if known := ss.Context().Value(userKey{}) != nil; known != strings.Contains(test.first, "user:") {
					t.Errorf("the handler knows the user: %t", known)
				}
				if test.late {
					now.Store(1000)
				}
				if err := ss.SendMsg(nil); err != nil {
					t.Errorf("a message under the first policy: %v", err)
				}
				if test.next != "" {
					source.replace(mustParse(t, test.next), true)
				}
				return ss.SendMsg(nil)
			})
			if status.Code(err) != test.want || len(recorded.list) != test.recorded {
				t.Errorf("%v, and %d decisions were recorded", err, len(recorded.list))
			}
			if n := test.users.asked.Load(); n != 1 && test.first != userText("peer: /payments") || n > 1 {
				t.Errorf("the user was looked for %d times", n)
			}
		})
	}
}

// Each message of a stream of requests is held against the content of the token.
func TestEachMessageIsOfTheUsersContent(t *testing.T) {
	t.Parallel()
	u := &users{user: paying("p-1")}
	guard, _, recorded := guardedFor(t, userText(forTransfer), u)
	ss := &incoming{stream: stream{ctx: callFrom(payments)}}
	ss.messages = append(ss.messages, transfer("p-1"), transfer("p-1"), transfer("p-2"))
	got := 0
	err := guard.Stream()(nil, ss, &grpc.StreamServerInfo{FullMethod: post, IsClientStream: true}, func(_ any, ss grpc.ServerStream) error {
		for {
			if err := ss.RecvMsg(transfer("")); err != nil {
				return err
			}
			got++
		}
	})
	if status.Code(err) != codes.PermissionDenied || got != 2 || u.asked.Load() != 1 || len(recorded.list) != 2 {
		t.Errorf("%v after %d messages; the user was looked for %d times; %d decisions", err, got, u.asked.Load(), len(recorded.list))
	}
}

// BenchmarkGuardUser is a unary call that a rule with a user lets in.
func BenchmarkGuardUser(b *testing.B) {
	source := newPolicies(mustParse(b, userText(forTransfer)))
	guard := authz.NewGuard(source, authz.WithUsers(&users{user: paying("p-1")})).Unary()
	ctx, request, info := callFrom(payments), transfer("p-1"), &grpc.UnaryServerInfo{FullMethod: post}
	handler := func(context.Context, any) (any, error) { return nil, nil }
	b.ReportAllocs()
	for b.Loop() {
		if _, err := guard(ctx, request, info, handler); err != nil {
			b.Fatal(err)
		}
	}
}
