package jwks_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign-mesh/countersign/pkg/userauth/jwks"
)

// endpoint is where keys are fetched.
type endpoint struct {
	mu       sync.Mutex
	document []byte
	err      error
	fetches  atomic.Int64
	// held, if there is one, holds up each fetch until it is closed.
	held chan struct{}
}

func (e *endpoint) fetch(ctx context.Context) ([]byte, error) {
	e.fetches.Add(1)
	if e.held != nil {
		select {
		case <-e.held:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.document, e.err
}

func (e *endpoint) publish(keys ...any) { e.answer(set(keys...), nil) }

func (e *endpoint) answer(document []byte, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.document, e.err = document, err
}

func set(keys ...any) []byte {
	text, err := json.Marshal(map[string]any{"keys": append([]any{}, keys...)})
	if err != nil {
		panic(err)
	}
	return text
}

func newKey(kid string) jose.JSONWebKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return jose.JSONWebKey{Key: &key.PublicKey, KeyID: kid, Algorithm: "ES256", Use: "sig"}
}

// has fails the test unless the set has just these of the keys a, b and c. It asks for no other, so that it makes no fetch where it need not.
func has(t *testing.T, s *jwks.Set, kids string) {
	t.Helper()
	for kid := range strings.SplitSeq(kids, "") {
		if key, err := s.Key(t.Context(), kid); err != nil || key.KeyID != kid {
			t.Errorf("key %s: %v", kid, err)
		}
	}
}

func hasNot(t *testing.T, s *jwks.Set, kid string, want error) {
	t.Helper()
	if _, err := s.Key(t.Context(), kid); !errors.Is(err, want) {
		t.Errorf("key %s: %v, not %v", kid, err, want)
	}
}

// run runs a set within a bubble, in which time passes when everything waits.
func run(t *testing.T, e *endpoint, test func(t *testing.T, s *jwks.Set), opts ...jwks.Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		s := jwks.New(e.fetch, opts...)
		var running sync.WaitGroup
		running.Go(func() {
			if err := s.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		test(t, s)
		stop()
		running.Wait()
	})
}

func sleep(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}
