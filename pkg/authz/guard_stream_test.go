package authz_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/authz"
)

// stream is a server stream on which messages always come and go.
type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s stream) Context() context.Context { return s.ctx }

func (stream) RecvMsg(any) error { return nil }

func (stream) SendMsg(any) error { return nil }

// open opens a stream through guard and gives it to the handler.
func open(guard *authz.Guard, peer spiffeid.ID, handler func(grpc.ServerStream) error) error {
	return guard.Stream()(nil, stream{ctx: callFrom(peer)}, &grpc.StreamServerInfo{FullMethod: post},
		func(_ any, ss grpc.ServerStream) error { return handler(ss) })
}

func TestAStreamIsDecidedWhenItOpens(t *testing.T) {
	t.Parallel()
	guard, _, recorded, _ := guarded(t, policyText)
	err := open(guard, risk, func(grpc.ServerStream) error {
		t.Error("the stream reached its handler")
		return nil
	})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("the caller got %v", err)
	}
	err = open(guard, payments, func(ss grpc.ServerStream) error {
		for range 10 {
			if err := errors.Join(ss.RecvMsg(nil), ss.SendMsg(nil)); err != nil {
				return err
			}
		}
		return io.EOF
	})
	if !errors.Is(err, io.EOF) {
		t.Errorf("the handler's error became %v", err)
	}
	if len(recorded.list) != 2 {
		t.Errorf("%d decisions for two streams under one policy, want 2", len(recorded.list))
	}
}

// ATTACKS 45: permission that ends while a stream is open ends the stream, whatever its handler makes of the error.
func TestAStreamEndsWithItsPermission(t *testing.T) {
	t.Parallel()
	for name, message := range map[string]func(grpc.ServerStream) error{
		"when it receives": func(ss grpc.ServerStream) error { return ss.RecvMsg(nil) },
		"when it sends":    func(ss grpc.ServerStream) error { return ss.SendMsg(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			guard, source, recorded, _ := guarded(t, policyText)
			err := open(guard, payments, func(ss grpc.ServerStream) error {
				if err := message(ss); err != nil {
					t.Errorf("an allowed message failed: %v", err)
				}
				// A policy that is new and still allows the peer does not disturb it.
				source.replace(mustParse(t, policyText+"# reviewed\n"), false)
				if err := message(ss); err != nil {
					t.Errorf("an allowed message failed under the next policy: %v", err)
				}
				source.replace(mustParse(t, strings.Replace(policyText, "/payments", "/risk", 1)), false)
				if err := message(ss); status.Code(err) != codes.PermissionDenied {
					t.Errorf("a message after the permission ended: %v", err)
				}
				source.replace(mustParse(t, policyText), false)
				if err := message(ss); status.Code(err) != codes.PermissionDenied {
					t.Errorf("a message on a stream that was denied: %v", err)
				}
				return nil // as if nothing had been
			})
			if status.Code(err) != codes.PermissionDenied {
				t.Errorf("the caller got %v", err)
			}
			if len(recorded.list) != 3 {
				t.Errorf("%d decisions under three policies, want 3", len(recorded.list))
			}
		})
	}
}

// ATTACKS 45: the same when nothing moves on the stream.
func TestAnIdleStreamEndsWithItsPermission(t *testing.T) {
	t.Parallel()
	guard, source, recorded, _ := guarded(t, policyText)
	begin := time.Now()
	err := open(guard, payments, func(ss grpc.ServerStream) error {
		source.replace(mustParse(t, policyText+"# reviewed\n"), true)
		eventually(t, 5*time.Second, "the stream is decided on again", func() bool {
			recorded.mu.Lock()
			defer recorded.mu.Unlock()
			return len(recorded.list) == 2
		})
		if ss.Context().Err() != nil {
			t.Error("a stream that is still allowed has ended")
		}
		source.replace(mustParse(t, strings.Replace(policyText, "/payments", "/risk", 1)), true)
		<-ss.Context().Done()
		return context.Cause(ss.Context())
	})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("the caller got %v", err)
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("the stream ended after %v, promised is a second", took)
	}
}
