package trust_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
	"github.com/countersign-mesh/countersign/services/gateway/internal/trust"
)

// login sends what a test gives it. Closing a watch ends it.
type login struct {
	err     error
	watches chan chan *loginv1.WatchRevocationsResponse
}

func (l *login) GetEdgeKeys(context.Context, *loginv1.GetEdgeKeysRequest, ...grpc.CallOption) (*loginv1.GetEdgeKeysResponse, error) {
	return &loginv1.GetEdgeKeysResponse{AccessTokenKeys: []byte(`{"keys": []}`), DeviceAuthorities: [][]byte{[]byte("no certificate")}}, l.err
}

func (l *login) WatchRevocations(ctx context.Context, _ *loginv1.WatchRevocationsRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[loginv1.WatchRevocationsResponse], error) {
	select {
	case messages := <-l.watches:
		return watch{ctx: ctx, messages: messages}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type watch struct {
	grpc.ClientStream
	ctx      context.Context
	messages chan *loginv1.WatchRevocationsResponse
}

func (w watch) Recv() (*loginv1.WatchRevocationsResponse, error) {
	select {
	case message, ok := <-w.messages:
		if !ok {
			return nil, errors.New("the watch has ended")
		}
		return message, nil
	case <-w.ctx.Done():
		return nil, w.ctx.Err()
	}
}

func revoked(serials ...string) *loginv1.WatchRevocationsResponse {
	message := &loginv1.WatchRevocationsResponse{}
	for _, serial := range serials {
		message.Revocations = append(message.Revocations, &loginv1.Revocation{
			Subject: &loginv1.Revocation_CertificateSerial{CertificateSerial: serial}, ExpireTime: timestamppb.New(time.Now().Add(time.Hour)),
		})
	}
	return message
}

// What was heard stays while login is away; what it says first when it is back is all that there is.
func TestRevocationsAreFollowed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &login{watches: make(chan chan *loginv1.WatchRevocationsResponse)}
		believed := trust.New(l, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		var following sync.WaitGroup
		defer following.Wait()
		defer stop()
		following.Go(func() { _ = believed.FollowRevocations(ctx) })
		is := func(when string, want map[string]bool) {
			t.Helper()
			synctest.Wait()
			for serial, want := range want {
				if got := believed.Revoked().Certificate(serial); got != want {
					t.Errorf("%s: %s is revoked: %v", when, serial, got)
				}
			}
		}
		messages := make(chan *loginv1.WatchRevocationsResponse)
		l.watches <- messages
		if err := believed.Keys().Ready(); err == nil {
			t.Error("it has keys")
		}
		messages <- revoked("a")
		is("at first", map[string]bool{"a": true, "b": false})
		messages <- revoked("b")
		is("later", map[string]bool{"a": true, "b": true})
		close(messages)
		is("away", map[string]bool{"a": true, "b": true})
		messages = make(chan *loginv1.WatchRevocationsResponse)
		l.watches <- messages
		is("back, and nothing was said yet", map[string]bool{"a": true, "b": true})
		messages <- revoked("c")
		is("back", map[string]bool{"a": false, "b": false, "c": true})
	})
}

// A login that hangs ends no watch, and neither does a network that swallows what it is given. Whoever waits for that hears of no revocation.
func TestASilentWatchIsBegunAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &login{watches: make(chan chan *loginv1.WatchRevocationsResponse)}
		believed := trust.New(l, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		var following sync.WaitGroup
		defer following.Wait()
		defer stop()
		following.Go(func() { _ = believed.FollowRevocations(ctx) })
		hangs := make(chan *loginv1.WatchRevocationsResponse)
		l.watches <- hangs
		hangs <- revoked("a")
		for range 60 {
			<-time.After(time.Second)
			hangs <- revoked() // a quiet minute
		}
		began, other := time.Now(), make(chan *loginv1.WatchRevocationsResponse)
		l.watches <- other
		if silent := time.Since(began); silent < 2*time.Second || silent > 4*time.Second {
			t.Errorf("another watch begins after %v", silent)
		}
		if !believed.Revoked().Certificate("a") {
			t.Error("what was heard is forgotten")
		}
		other <- revoked("a", "b")
		synctest.Wait()
		if !believed.Revoked().Certificate("b") {
			t.Error("the other watch is not heard")
		}
	})
}

func TestReadyIsWhoKnowsKeysAndRevocations(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &login{watches: make(chan chan *loginv1.WatchRevocationsResponse)}
		believed := trust.New(l, slog.New(slog.DiscardHandler))
		if believed.Ready(t.Context()) == nil || believed.Devices() != nil {
			t.Error("it is ready from the start")
		}
		ctx, stop := context.WithCancel(t.Context())
		var following sync.WaitGroup
		defer following.Wait()
		defer stop()
		following.Go(func() { _ = believed.FollowKeys(ctx) })
		following.Go(func() { _ = believed.FollowRevocations(ctx) })
		synctest.Wait()
		if believed.Ready(t.Context()) == nil || believed.Devices() != nil {
			t.Error("it is ready, or lets somebody in, before it has heard what is revoked")
		}
		messages := make(chan *loginv1.WatchRevocationsResponse)
		l.watches <- messages
		messages <- revoked()
		synctest.Wait()
		if err := believed.Ready(t.Context()); err != nil || believed.Devices() == nil {
			t.Errorf("it has heard: %v", err)
		}
		close(messages)
		synctest.Wait()
		if believed.Devices() == nil {
			t.Error("it lets nobody in while login is away")
		}
	})
}
