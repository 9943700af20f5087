// Package trust is what the edge believes: the keys of access tokens, the authorities of devices, and what of both is revoked. All of it is login's to say.
//
// While login is away, what was last heard stays: nothing that is good is refused then. Nor is anything new let in, because only login makes tokens; what was issued
// before ends by itself within minutes, the longest that an access token lives. That is why what was heard needs no other bound on its age.
package trust

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/pkg/userauth/jwks"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
)

const (
	// firstPause and lastPause are the least and the most time between two attempts to follow the revocations.
	firstPause = 100 * time.Millisecond
	lastPause  = 2 * time.Second
	// silence is how long a watch may say nothing. Login says something each second; one that does not hangs, or cannot be reached, and nobody here would know.
	silence = 3 * time.Second
)

// Login says what is to be believed. A loginv1.KeyServiceClient does.
type Login interface {
	GetEdgeKeys(ctx context.Context, in *loginv1.GetEdgeKeysRequest, opts ...grpc.CallOption) (*loginv1.GetEdgeKeysResponse, error)
	WatchRevocations(ctx context.Context, in *loginv1.WatchRevocationsRequest, opts ...grpc.CallOption) (grpc.ServerStreamingClient[loginv1.WatchRevocationsResponse], error)
}

// Trust follows login. It is safe for concurrent use. The zero value is not usable; see New.
type Trust struct {
	login   Login
	log     *slog.Logger
	keys    *jwks.Set
	devices atomic.Pointer[x509.CertPool]
	revoked userauth.Revocations
	// heard is whether there was a snapshot of what is revoked.
	heard atomic.Bool
}

// New returns a Trust that believes nothing yet.
func New(login Login, log *slog.Logger) *Trust {
	t := &Trust{login: login, log: log}
	t.keys = jwks.New(t.fetch, jwks.WithLogger(log))
	return t
}

// Keys are the keys of access tokens.
func (t *Trust) Keys() *jwks.Set { return t.keys }

// Devices are the authorities whose certificates devices have; nil as long as none is known, or it was not heard yet what is revoked. Nobody is let in then: a
// process is asked before it is ready, too, by whoever knows its address, and a stolen phone would be let in.
func (t *Trust) Devices() *x509.CertPool {
	if !t.heard.Load() {
		return nil
	}
	return t.devices.Load()
}

// Revoked is what is revoked.
func (t *Trust) Revoked() *userauth.Revocations { return &t.revoked }

// Ready fails until there are keys, and until it was heard once what is revoked: before that, Devices lets nobody in.
func (t *Trust) Ready(context.Context) error {
	if err := t.keys.Ready(); err != nil {
		return err
	}
	if !t.heard.Load() {
		return errors.New("what is revoked was not heard yet")
	}
	return nil
}

// FollowKeys keeps keys and authorities up to date until ctx ends; it returns nil then.
func (t *Trust) FollowKeys(ctx context.Context) error { return t.keys.Run(ctx) }

// fetch gets keys and authorities in one answer, so that both are of one moment.
func (t *Trust) fetch(ctx context.Context) ([]byte, error) {
	answer, err := t.login.GetEdgeKeys(ctx, &loginv1.GetEdgeKeysRequest{})
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, der := range answer.GetDeviceAuthorities() {
		cert, err := x509.ParseCertificate(der)
		if err == nil && !cert.IsCA { // crypto/x509 takes whatever is in a pool for an authority
			err = errors.New("it is not an authority's")
		}
		if err != nil {
			t.log.WarnContext(ctx, "a device authority is not used", "error", err)
			continue
		}
		pool.AddCert(cert)
	}
	t.devices.Store(pool)
	return answer.GetAccessTokenKeys(), nil
}

// FollowRevocations keeps what is revoked up to date until ctx ends; it returns nil then.
func (t *Trust) FollowRevocations(ctx context.Context) error {
	pause := firstPause
	for {
		heard, err := t.follow(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was told to stop
		}
		if heard {
			pause = firstPause
		}
		t.log.WarnContext(ctx, "revocations are not followed at the moment; what was heard stays", "error", err, "again_in", pause)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
	}
}

// errSilent means that login has said nothing for too long.
var errSilent = errors.New("login says nothing")

// follow takes in what login sends until it ends or falls silent, and reports whether there was anything. The next watch may be another replica's.
func (t *Trust) follow(ctx context.Context) (heard bool, err error) {
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	stream, err := t.login.WatchRevocations(ctx, &loginv1.WatchRevocationsRequest{})
	if err != nil {
		return false, err
	}
	patience := time.AfterFunc(silence, func() { leave(errSilent) })
	defer patience.Stop()
	for {
		message, err := stream.Recv()
		if err != nil {
			return heard, fmt.Errorf("follow revocations: %w", errors.Join(err, context.Cause(ctx)))
		}
		patience.Reset(silence)
		more := revocations(message.GetRevocations())
		if heard {
			t.revoked.Add(more...)
			continue
		}
		t.revoked.Replace(more)
		t.heard.Store(true)
		heard = true
	}
}

func revocations(from []*loginv1.Revocation) []userauth.Revocation {
	to := make([]userauth.Revocation, 0, len(from))
	for _, r := range from {
		to = append(to, userauth.Revocation{
			TokenID: r.GetTokenId(), Session: r.GetSessionId(), CertSerial: r.GetCertificateSerial(), Until: r.GetExpireTime().AsTime(),
		})
	}
	return to
}
