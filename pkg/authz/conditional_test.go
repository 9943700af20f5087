package authz_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/countersign-mesh/countersign/pkg/authz"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

// conditionalText lets payments post transfers whose ID begins with "p-", and anybody below /readers read the balance of the account "cash".
const conditionalText = `trust_domain: bank.test
services:
  bank.ledger.v1.LedgerService:
    methods:
      PostTransfer:
        allow:
          - peer: /payments
            when: request.transfer_id.startsWith("p-")
      GetBalance:
        allow:
          - peer: /readers/**
            when: request.account_id == "cash"
`

const balance = "/bank.ledger.v1.LedgerService/GetBalance"

func transfer(id string) *ledgerv1.PostTransferRequest {
	return &ledgerv1.PostTransferRequest{TransferId: id}
}

// callWith makes a unary call with a request through guard, admission first, as a server does, and reports whether it reached the handler.
func callWith(guard *authz.Guard, peer spiffeid.ID, method string, req proto.Message) (reached bool, err error) {
	ctx := callFrom(peer)
	if err := guard.Admit(ctx, method); err != nil {
		return false, err
	}
	_, err = guard.Unary()(ctx, req, &grpc.UnaryServerInfo{FullMethod: method}, func(context.Context, any) (any, error) {
		reached = true
		return nil, nil
	})
	return reached, err
}

// ATTACKS 46: a call whose permission depends on its request is decided on once the request is known, before anything is done, and recorded once.
func TestAConditionIsAskedWithTheRequest(t *testing.T) {
	t.Parallel()
	reader := spiffeid.RequireFromString("spiffe://bank.test/readers/a")
	for name, test := range map[string]struct {
		peer    spiffeid.ID
		method  string
		request proto.Message
		reason  string // empty when it is let in
	}{
		"it holds":                         {payments, post, transfer("p-1"), ""},
		"it holds for one below a path":    {reader, balance, &ledgerv1.GetBalanceRequest{AccountId: "cash"}, ""},
		"it does not hold":                 {payments, post, transfer("x-1"), `p.yaml:7: allowed for /payments when request.transfer_id.startsWith("p-"), which this call is not`},
		"there is no request":              {payments, post, nil, "it depends on the request"},
		"it is for another peer":           {risk, post, transfer("p-1"), "allowed for /payments; the caller is /risk"},
		"it is for those below, not above": {spiffeid.RequireFromString("spiffe://bank.test/readers"), balance, &ledgerv1.GetBalanceRequest{AccountId: "cash"}, "the caller is /readers"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			guard, _, recorded, _ := guarded(t, conditionalText)
			reached, err := callWith(guard, test.peer, test.method, test.request)
			if want := test.reason == ""; reached != want || (err == nil) != want {
				t.Errorf("reached %t, error %v", reached, err)
			}
			if len(recorded.list) != 1 {
				t.Fatalf("%d decisions were recorded, want 1", len(recorded.list))
			}
			if got := recorded.list[0]; got.Allowed != reached || !strings.Contains(got.Reason, test.reason) {
				t.Errorf("recorded %+v, want the reason %q", got, test.reason)
			}
		})
	}
}

// Whoever no rule names is turned away by the headers: a condition on others must not make the server read what strangers send.
func TestAConditionLetsNoStrangerPastAdmission(t *testing.T) {
	t.Parallel()
	guard, _, _, _ := guarded(t, conditionalText)
	if err := guard.Admit(callFrom(risk), post); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a stranger was admitted: %v", err)
	}
	if err := guard.Admit(callFrom(payments), post); err != nil {
		t.Errorf("a caller whose request decides was not admitted: %v", err)
	}
}

// incoming is a stream on which a caller sends messages.
type incoming struct {
	stream
	mu       sync.Mutex
	messages []proto.Message
	sent     int
}

func (s *incoming) RecvMsg(m any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.messages) == 0 {
		return errors.New("the test has no more messages")
	}
	message, ok := m.(proto.Message)
	if !ok {
		return errors.New("no message")
	}
	proto.Merge(message, s.messages[0])
	s.messages = s.messages[1:]
	return nil
}

func (s *incoming) SendMsg(any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent++
	return nil
}

// receive takes the next transfer of the stream.
func receive(ss grpc.ServerStream) error { return ss.RecvMsg(&ledgerv1.PostTransferRequest{}) }

// openWith opens a stream of transfers by payments with these messages.
func openWith(guard *authz.Guard, clientStream bool, messages []proto.Message, handler grpc.StreamHandler) (*incoming, error) {
	ss := &incoming{stream: stream{ctx: callFrom(payments)}, messages: messages}
	return ss, guard.Stream()(nil, ss, &grpc.StreamServerInfo{FullMethod: post, IsClientStream: clientStream}, handler)
}

func allowedOnes(recorded *records) (allowed, denied int) {
	recorded.mu.Lock()
	defer recorded.mu.Unlock()
	for _, d := range recorded.list {
		if d.Allowed {
			allowed++
		} else {
			denied++
		}
	}
	return allowed, denied
}

// ATTACKS 45: each message of a stream is decided on by what is in it; the first that is not allowed ends the stream.
func TestEachMessageOfAStreamIsDecidedOn(t *testing.T) {
	t.Parallel()
	guard, _, recorded, _ := guarded(t, conditionalText)
	seen := 0
	ss, err := openWith(guard, true, []proto.Message{transfer("p-1"), transfer("p-2"), transfer("x"), transfer("p-3")}, func(_ any, ss grpc.ServerStream) error {
		for receive(ss) == nil {
			seen++
			if err := ss.SendMsg(nil); err != nil {
				t.Errorf("an answer to a message that was allowed: %v", err)
			}
		}
		if err := receive(ss); status.Code(err) != codes.PermissionDenied {
			t.Errorf("a good message after one that was denied: %v", err)
		}
		if err := ss.SendMsg(nil); status.Code(err) != codes.PermissionDenied {
			t.Errorf("an answer after the denial: %v", err)
		}
		return nil // as if nothing had been
	})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("the caller got %v", err)
	}
	if seen != 2 || ss.sent != 2 {
		t.Errorf("the handler saw %d messages and sent %d, want 2 and 2", seen, ss.sent)
	}
	if allowed, denied := allowedOnes(recorded); allowed != 1 || denied != 1 {
		t.Errorf("%d allowed and %d denied decisions were recorded, want one of each: the second message changed nothing", allowed, denied)
	}
}

// Before a message was judged nobody knows whether the caller may have anything.
func TestNothingIsSentBeforeAMessageWasJudged(t *testing.T) {
	t.Parallel()
	guard, _, recorded, _ := guarded(t, conditionalText)
	ss, err := openWith(guard, true, []proto.Message{transfer("p-1")}, func(_ any, ss grpc.ServerStream) error {
		return ss.SendMsg(nil)
	})
	if status.Code(err) != codes.PermissionDenied || ss.sent != 0 {
		t.Errorf("%d messages were sent, and the stream ended with %v", ss.sent, err)
	}
	if allowed, denied := allowedOnes(recorded); allowed != 0 || denied != 1 || !strings.Contains(recorded.list[0].Reason, "before a message") {
		t.Errorf("recorded %+v", recorded.list)
	}
}

// ATTACKS 45: a stream that goes on under another policy is decided on by what is known of it: of one with a single request, that request; one
// with many has to be opened again, since those that the policy asks about are gone.
func TestAStreamUnderAnotherPolicyThatAsksForItsRequest(t *testing.T) {
	t.Parallel()
	plain := strings.Replace(conditionalText, "            when: request.transfer_id.startsWith(\"p-\")\n", "", 1)
	other := strings.Replace(conditionalText, `"p-"`, `"q-"`, 1)
	for name, test := range map[string]struct {
		clientStream bool
		before, then string
		want         codes.Code
	}{
		"a single request that it allows":               {false, plain, conditionalText, codes.OK},
		"a single request that it denies":               {false, plain, other, codes.PermissionDenied},
		"a single request under a stricter condition":   {false, conditionalText, other, codes.PermissionDenied},
		"a single request without a condition any more": {false, conditionalText, plain, codes.OK},
		"many requests": {true, plain, conditionalText, codes.Unavailable},
		"many requests without a condition any more":     {true, conditionalText, plain, codes.OK},
		"many requests that nobody may make any more":    {true, plain, strings.Replace(plain, "/payments", "/risk", 1), codes.PermissionDenied},
		"a single request that nobody may make any more": {false, plain, strings.Replace(plain, "/payments", "/risk", 1), codes.PermissionDenied},
	} {
		for how, announced := range map[string]bool{"when it sends": false, "idle": true} {
			t.Run(name+", "+how, func(t *testing.T) {
				t.Parallel()
				guard, source, recorded, _ := guarded(t, test.before)
				_, err := openWith(guard, test.clientStream, []proto.Message{transfer("p-1")}, func(_ any, ss grpc.ServerStream) error {
					if err := receive(ss); err != nil {
						t.Errorf("the first message: %v", err)
					}
					source.replace(mustParse(t, test.then), announced)
					if announced && test.want != codes.OK {
						select {
						case <-ss.Context().Done():
						case <-time.After(10 * time.Second):
							t.Error("the stream goes on")
						}
						return nil
					}
					return ss.SendMsg(nil)
				})
				if status.Code(err) != test.want {
					t.Errorf("the stream ended with %v, want %v", err, test.want)
				}
				if _, denied := allowedOnes(recorded); (denied == 1) != (test.want == codes.PermissionDenied) {
					t.Errorf("%d denials were recorded", denied)
				}
			})
		}
	}
}

// A handler may do with a message what it likes; a later decision is about what the caller sent.
func TestALaterDecisionIsAboutWhatTheCallerSent(t *testing.T) {
	t.Parallel()
	guard, source, _, _ := guarded(t, conditionalText)
	_, err := openWith(guard, false, []proto.Message{transfer("p-1")}, func(_ any, ss grpc.ServerStream) error {
		request := &ledgerv1.PostTransferRequest{}
		if err := ss.RecvMsg(request); err != nil {
			return err
		}
		request.TransferId = "forged"
		source.replace(mustParse(t, conditionalText+"# reviewed\n"), false)
		return ss.SendMsg(nil)
	})
	if err != nil {
		t.Errorf("the stream ended with %v", err)
	}
}

// What is in shadow is recorded with the decision and changes nothing else, on unary calls and on streams, by the headers and by the request.
func TestRulesInShadowAreRecordedAndNotEnforced(t *testing.T) {
	t.Parallel()
	const text = `trust_domain: bank.test
services:
  bank.ledger.v1.LedgerService:
    methods:
      PostTransfer:
        allow:
          - peer: /payments
          - {peer: /risk, shadow: true}
        deny:
          - {peer: /payments, when: request.transfer_id == "big", shadow: true}
`
	type shadow struct {
		allowed       bool
		rule          string
		shadowAllowed bool
	}
	for name, test := range map[string]struct {
		peer spiffeid.ID
		id   string
		want shadow
	}{
		"a rule that would allow":                   {risk, "small", shadow{false, "p.yaml:8", true}},
		"a rule that would deny":                    {payments, "big", shadow{true, "p.yaml:10", false}},
		"a rule in shadow that does not apply":      {payments, "small", shadow{true, "", false}},
		"a caller whom no rule names, shadow or no": {spiffeid.RequireFromString("spiffe://bank.test/gateway"), "small", shadow{false, "", false}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check := func(kind string, recorded *records, reached bool) {
				t.Helper()
				if reached != test.want.allowed || len(recorded.list) == 0 {
					t.Fatalf("%s: reached %t with %d records", kind, reached, len(recorded.list))
				}
				d := recorded.list[len(recorded.list)-1]
				if got := (shadow{d.Allowed, d.ShadowRule, d.ShadowAllowed}); got != test.want {
					t.Errorf("%s: recorded %+v, want %+v", kind, got, test.want)
				}
			}
			guard, _, recorded, _ := guarded(t, text)
			reached, _ := callWith(guard, test.peer, post, transfer(test.id))
			check("unary", recorded, reached)

			guard, _, recorded, _ = guarded(t, text)
			reached = false
			ss := &incoming{stream: stream{ctx: callFrom(test.peer)}, messages: []proto.Message{transfer(test.id)}}
			_ = guard.Stream()(nil, ss, &grpc.StreamServerInfo{FullMethod: post, IsClientStream: true}, func(_ any, ss grpc.ServerStream) error {
				reached = true
				return errors.Join(receive(ss), ss.SendMsg(nil))
			})
			check("a stream", recorded, reached)
		})
	}
}
