// Package keys has the keys that tokens are signed with: published before they sign, and until what they have signed is over. Access tokens and transaction tokens have
// keys of their own, so that neither can be taken for the other.
package keys

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign-mesh/countersign/pkg/userauth"
)

const (
	// refreshEvery is how often a process looks at the keys in the database.
	refreshEvery = 30 * time.Second
	// maxAge is how old the keys may be that a process has read for it to sign with them. Together with the life of a token it is less than keep.
	maxAge = 15 * time.Minute
)

// ErrStale is returned while the database has been away for so long that another process may have rotated the keys.
var ErrStale = errors.New("the signing keys were not read for too long")

// Store keeps keys.
type Store interface {
	// PlanKeys has plan say, from the keys of a purpose that there are, which are to be there; it stores these, in one transaction, and returns them.
	PlanKeys(ctx context.Context, purpose Purpose, plan func([]Key) ([]Key, error)) ([]Key, error)
}

// Ring is the keys of one purpose. It is safe for concurrent use, also by several processes on one database. It is a userauth.Keys.
type Ring struct {
	store   Store
	purpose Purpose
	now     func() time.Time
	log     *slog.Logger

	mu     sync.Mutex
	signer jose.JSONWebKey
	public map[string]jose.JSONWebKey
	set    []byte
	read   time.Time
}

// Open returns the keys of a purpose.
func Open(ctx context.Context, store Store, purpose Purpose, now func() time.Time, log *slog.Logger) (*Ring, error) {
	r := &Ring{store: store, purpose: purpose, now: now, log: log}
	if err := r.Refresh(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// Run looks at the keys again and again, until ctx ends; it returns nil then.
func (r *Ring) Run(ctx context.Context) error {
	tick := time.NewTicker(refreshEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if err := r.Refresh(ctx); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "cannot look at the signing keys; the last ones are used", "purpose", string(r.purpose), "error", err)
		}
	}
}

// Refresh rotates the keys if it is time, and reads them.
func (r *Ring) Refresh(ctx context.Context) error {
	now := r.now()
	keys, err := r.store.PlanKeys(ctx, r.purpose, func(keys []Key) ([]Key, error) { return plan(now, r.purpose, keys) })
	if err != nil {
		return fmt.Errorf("rotate the keys of %s tokens: %w", r.purpose, err)
	}
	var signer jose.JSONWebKey
	public := map[string]jose.JSONWebKey{}
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, k := range keys {
		private, err := parse(k)
		if err != nil {
			return err
		}
		public[k.ID] = private.Public()
		set.Keys = append(set.Keys, private.Public())
		if k.signs() {
			signer = private
		}
	}
	document, err := json.Marshal(set)
	if err != nil {
		return fmt.Errorf("write the key set: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.signer.KeyID != signer.KeyID {
		r.log.InfoContext(ctx, "another key signs from now on", "purpose", string(r.purpose), "kid", signer.KeyID)
	}
	r.signer, r.public, r.set, r.read = signer, public, document, now
	return nil
}

func parse(k Key) (jose.JSONWebKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(k.Private)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		return jose.JSONWebKey{}, fmt.Errorf("the signing key %s cannot be read", k.ID) // the cause may hold some of it
	}
	return jose.JSONWebKey{Key: key, KeyID: k.ID, Algorithm: string(jose.ES256), Use: "sig"}, nil
}

// Signer returns the key that signs now.
func (r *Ring) Signer() (jose.JSONWebKey, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now().Sub(r.read) > maxAge {
		return jose.JSONWebKey{}, ErrStale
	}
	return r.signer, nil
}

// Set returns the public keys as a JWK Set (RFC 7517 §5).
func (r *Ring) Set() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.set
}

// Key implements userauth.Keys.
func (r *Ring) Key(_ context.Context, kid string) (jose.JSONWebKey, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key, ok := r.public[kid]
	if !ok {
		return jose.JSONWebKey{}, userauth.ErrUnknownKey
	}
	return key, nil
}
