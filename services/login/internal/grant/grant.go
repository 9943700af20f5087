package grant

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/services/login/internal/customer"
	"github.com/countersign-mesh/countersign/services/login/internal/device"
	"github.com/countersign-mesh/countersign/services/login/internal/revocation"
)

// ErrNoSession is returned by a Store for a session that is not there.
var ErrNoSession = errors.New("no such session")

// Store keeps sessions.
type Store interface {
	// AddSession stores a session and uses up the one-time code of proof, if it has one; or it fails with customer.ErrWrong.
	AddSession(ctx context.Context, s Session, proof customer.Proof) error
	// SessionByCode has the session of a code changed by change, in one transaction that may be run more than once; or it fails with ErrNoSession. A session that change
	// ends is revoked.
	SessionByCode(ctx context.Context, digest []byte, change func(*Session)) error
	// SessionByID is the same for a session of an ID.
	SessionByID(ctx context.Context, id string, change func(*Session)) error
	// Revoke makes it known that something is not to be believed any more. What is revoked already stays so.
	Revoke(ctx context.Context, r revocation.Revocation) error
}

// Tokens is what a grant gives.
type Tokens struct {
	Access, Refresh string
	Scopes          []string
}

// Service grants. It is safe for concurrent use, also by several processes on one database.
type Service struct {
	store    Store
	minter   minter
	verifier *userauth.Verifier
	now      func() time.Time
}

// Keys are those of access tokens.
type Keys interface {
	Signer
	userauth.Keys
}

// New returns a Service whose access tokens are issued by issuer for audience.
func New(store Store, keys Keys, issuer, audience string, now func() time.Time) *Service {
	return &Service{
		store: store, now: now,
		minter:   minter{issuer: issuer, audience: audience, keys: keys, now: now},
		verifier: userauth.NewVerifier(keys, issuer, audience, userauth.WithClock(now)),
	}
}

// Authorize returns an authorization code for what a customer has proven.
func (g *Service) Authorize(ctx context.Context, r Request, proof customer.Proof) (code string, err error) {
	s, code := begin(r, g.now())
	return code, g.store.AddSession(ctx, s, proof)
}

// Exchange exchanges a code for tokens.
func (g *Service) Exchange(ctx context.Context, d device.Device, code, verifier string) (Tokens, error) {
	// First: a code or a refresh token is not used up for an access token that cannot be signed.
	if _, err := g.minter.keys.Signer(); err != nil {
		return Tokens{}, err
	}
	var session Session
	var refresh string
	var refused error
	err := g.store.SessionByCode(ctx, Digest(code), func(s *Session) {
		refresh, refused = s.exchange(d.ID, verifier, g.now())
		session = *s
	})
	return g.give(session, d, refresh, session.Scopes, either(err, refused))
}

// Refresh exchanges a refresh token for new tokens, with as many of the session's scopes as are asked for; nil is all. retryKey names the request; one with the same
// key gives the same refresh token.
func (g *Service) Refresh(ctx context.Context, d device.Device, token, retryKey string, scopes []string) (Tokens, error) {
	id, ok := sessionOf(token)
	if !ok {
		return Tokens{}, ErrGrant
	}
	if _, err := g.minter.keys.Signer(); err != nil {
		return Tokens{}, err
	}
	var session Session
	var refresh string
	var refused error
	err := g.store.SessionByID(ctx, id, func(s *Session) {
		session = *s
		if refused = covers(s.Scopes, scopes); refused != nil && s.DeviceID == d.ID {
			return
		}
		refresh, refused = s.refresh(d.ID, token, retryKey, g.now())
		session = *s
	})
	if scopes == nil {
		scopes = session.Scopes
	}
	return g.give(session, d, refresh, scopes, either(err, refused))
}

func (g *Service) give(s Session, d device.Device, refresh string, scopes []string, err error) (Tokens, error) {
	if err != nil {
		return Tokens{}, err
	}
	access, err := g.minter.mint(s, d, scopes)
	return Tokens{Access: access, Refresh: refresh, Scopes: scopes}, err
}

// Revoke revokes a token of a device's (RFC 7009 §2.1): a refresh token with its session, an access token by itself. What is no token of this device's is none that is good
// here, which is all that is asked for.
func (g *Service) Revoke(ctx context.Context, d device.Device, token string) error {
	if id, ok := sessionOf(token); ok && strings.Count(token, ".") == 1 {
		err := g.store.SessionByID(ctx, id, func(s *Session) {
			// Whoever has another of its tokens has had this session, and the device is its own.
			if s.DeviceID == d.ID && s.Ended.IsZero() {
				s.Ended = g.now()
			}
		})
		if errors.Is(err, ErrNoSession) {
			return nil
		}
		return err
	}
	cert, err := x509.ParseCertificate(d.Certificate)
	if err != nil {
		return err
	}
	principal, err := g.verifier.Verify(ctx, token, cert)
	if err != nil {
		return nil //nolint:nilerr // RFC 7009 §2.2: a token that is not good needs no revoking
	}
	return g.store.Revoke(ctx, revocation.Revocation{Kind: revocation.Token, Subject: principal.TokenID, Expires: principal.Expires.Add(Leeway)})
}

func covers(granted, asked []string) error {
	for _, scope := range asked {
		if !slices.Contains(granted, scope) {
			return ErrScope
		}
	}
	return nil
}

// either returns the error of a store, or why it was refused.
func either(err, refused error) error {
	if errors.Is(err, ErrNoSession) {
		return ErrGrant
	}
	if err != nil {
		return err
	}
	return refused
}
