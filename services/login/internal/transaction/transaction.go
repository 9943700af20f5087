// Package transaction is the Txn-Token service (draft-ietf-oauth-transaction-tokens): it turns a customer's access token into a token for one call, whose content the
// customer has asked for.
package transaction

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	"github.com/countersign-mesh/countersign/services/login/internal/device"
	"github.com/countersign-mesh/countersign/services/login/internal/revocation"
)

var (
	// ErrToken is returned for an access token that is not good (any more).
	ErrToken = errors.New("the access token is not good")
	// ErrScope is returned for a scope that the access token does not have.
	ErrScope = errors.New("the access token does not have that scope")
	// ErrUnknown is returned for a transaction that was not issued, or cannot be renewed.
	ErrUnknown = errors.New("no such transaction")
)

const (
	// Lifetime is how long a transaction token is good: for the calls of one request.
	Lifetime = 2 * time.Minute
	// Keep is how long a transaction can be renewed.
	Keep = 90 * 24 * time.Hour
)

// lasting reports whether a scope is of transactions that may take longer than a token lives.
func lasting(scope string) bool { return scope == "transfer" }

// Transaction is what a customer asked for.
type Transaction struct {
	ID, CustomerID, DeviceID, Scope string
	Context                         map[string]string
	// Requester is the SPIFFE ID of who first asked for a token.
	Requester string
	Created   time.Time
}

// Store keeps transactions.
type Store interface {
	// AddTransaction stores a transaction.
	AddTransaction(ctx context.Context, t Transaction) error
	// Transaction returns a transaction that was stored since, or ErrUnknown.
	Transaction(ctx context.Context, id string, since time.Time) (Transaction, error)
	// Revoked reports whether one of these is revoked at a time.
	Revoked(ctx context.Context, now time.Time, subjects ...revocation.Revocation) (bool, error)
}

// Devices finds devices.
type Devices interface {
	// Get returns a device, or device.ErrUnknown.
	Get(ctx context.Context, id string) (device.Device, error)
}

// Service issues transaction tokens. It is safe for concurrent use.
type Service struct {
	store    Store
	devices  Devices
	verifier *userauth.Verifier
	issuer   *txntoken.Issuer
	now      func() time.Time
}

// New returns a Service that takes access tokens which verifier believes.
func New(store Store, devices Devices, verifier *userauth.Verifier, issuer *txntoken.Issuer, now func() time.Time) *Service {
	return &Service{store: store, devices: devices, verifier: verifier, issuer: issuer, now: now}
}

// Token is a transaction token and when it ends.
type Token struct {
	Raw     string
	Expires time.Time
}

// Issue exchanges an access token. requester is the SPIFFE ID of who asks.
func (s *Service) Issue(ctx context.Context, requester, access, scope string, content map[string]string) (Token, error) {
	principal, err := s.verify(ctx, access)
	if err != nil {
		return Token{}, err
	}
	if !principal.HasScope(scope) {
		return Token{}, ErrScope
	}
	t := Transaction{
		ID: rand.Text(), CustomerID: principal.Subject, DeviceID: principal.Client, Scope: scope, Context: content, Requester: requester, Created: s.now(),
	}
	if lasting(scope) {
		if err := s.store.AddTransaction(ctx, t); err != nil {
			return Token{}, err
		}
	}
	return s.issue(t, requester)
}

// Renew issues a token once more. It says what the customer asked for when they did, and does so also when their session has ended since: the order was given, and whether it is
// still to be carried out is for payments to know.
func (s *Service) Renew(ctx context.Context, requester, id string) (Token, error) {
	t, err := s.store.Transaction(ctx, id, s.now().Add(-Keep))
	if err != nil {
		return Token{}, err
	}
	return s.issue(t, t.Requester, requester)
}

func (s *Service) issue(t Transaction, requesters ...string) (Token, error) {
	raw, err := s.issuer.Issue(txntoken.Token{ID: t.ID, Subject: t.CustomerID, Scope: t.Scope, Requesters: requesters, Context: t.Context})
	if err != nil {
		return Token{}, fmt.Errorf("issue a transaction token: %w", err)
	}
	return Token{Raw: raw, Expires: s.now().Truncate(time.Second).Add(Lifetime)}, nil
}

// verify decides on an access token. That it was presented with its certificate is for the edge to have seen. Here it is held against the certificate that its
// client has, which it is bound to if it was issued here, and whether it is revoked is read from where that is written.
func (s *Service) verify(ctx context.Context, access string) (*userauth.Principal, error) {
	client, err := clientOf(access)
	if err != nil {
		return nil, err
	}
	d, err := s.devices.Get(ctx, client)
	if errors.Is(err, device.ErrUnknown) {
		return nil, fmt.Errorf("%w: there is no such client", ErrToken)
	}
	if err != nil {
		return nil, err
	}
	if !d.Good(s.now()) {
		return nil, fmt.Errorf("%w: the device is not good any more", ErrToken)
	}
	cert, err := x509.ParseCertificate(d.Certificate)
	if err != nil {
		return nil, fmt.Errorf("read a device's certificate: %w", err)
	}
	principal, err := s.verifier.Verify(ctx, access, cert)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrToken, err)
	}
	revoked, err := s.store.Revoked(ctx, s.now(),
		revocation.Revocation{Kind: revocation.Token, Subject: principal.TokenID},
		revocation.Revocation{Kind: revocation.Session, Subject: principal.Session},
		revocation.Revocation{Kind: revocation.Certificate, Subject: d.Serial})
	if err != nil {
		return nil, err
	}
	if revoked {
		return nil, fmt.Errorf("%w: it is revoked", ErrToken)
	}
	return principal, nil
}

// clientOf returns the client that a token claims to be of, before anything of it is verified.
func clientOf(access string) (string, error) {
	parsed, err := jwt.ParseSigned(access, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return "", fmt.Errorf("%w: it cannot be read", ErrToken)
	}
	var claimed struct {
		Client string `json:"client_id"`
	}
	if err := parsed.UnsafeClaimsWithoutVerification(&claimed); err != nil {
		return "", fmt.Errorf("%w: it cannot be read", ErrToken)
	}
	return claimed.Client, nil
}
