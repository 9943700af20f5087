package userauth

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// Principal is the customer that a verified access token names, and what the token says of them. It is immutable: whoever has one must not change it.
type Principal struct {
	// Subject is the customer (sub).
	Subject string
	// Client is the device that the customer uses (client_id).
	Client string
	// Session is one log-in of the customer (sid). It is empty where the issuer tells none.
	Session string
	// TokenID is the name of this one token (jti).
	TokenID string
	// Scopes are what the customer has let the device do (scope).
	Scopes []string
	// ACR says how well the customer was authenticated (acr, RFC 9470), and AuthTime when. They are empty where the issuer does not tell.
	ACR      string
	AuthTime time.Time
	// Expires is when the token ends (exp).
	Expires time.Time
	// CertSerial is the serial number of the certificate that the token is bound to and was presented with, in lower-case hexadecimal.
	CertSerial string

	token string
	// keyID and key are what the token's signature was verified with.
	keyID string
	key   any
	// certUntil is when the certificate ends.
	certUntil time.Time
}

// Token returns the access token itself, to be exchanged where it is asked for. It is a secret: it must get into no log, no error and no other service's
// hands than the authorization server's.
func (p *Principal) Token() string { return p.token }

// HasScope reports whether the token has a scope.
func (p *Principal) HasScope(scope string) bool { return slices.Contains(p.Scopes, scope) }

// String names the customer, the device and the token's ID. The token is not in it.
func (p *Principal) String() string {
	return fmt.Sprintf("%s by %s (token %s)", p.Subject, p.Client, p.TokenID)
}

// Format implements fmt.Formatter, so that no verb shows the token: %+v and %#v would print every field.
func (p *Principal) Format(s fmt.State, _ rune) { _, _ = fmt.Fprint(s, p.String()) }

// LogValue implements slog.LogValuer. The token is not in it.
func (p *Principal) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("subject", p.Subject), slog.String("client", p.Client), slog.String("session", p.Session), slog.String("token_id", p.TokenID))
}

// MarshalJSON implements json.Marshaler for handlers of logs that know no LogValuer deep inside a value.
func (p *Principal) MarshalJSON() ([]byte, error) { return fmt.Appendf(nil, "%q", p.String()), nil }

// until is when the token is good no longer, whatever else happens.
func (p *Principal) until(leeway time.Duration) time.Time {
	until := p.Expires.Add(leeway)
	if !p.certUntil.IsZero() && p.certUntil.Before(until) {
		return p.certUntil
	}
	return until
}

type contextKey struct{}

// NewContext returns a context that carries a principal. The interceptors and Middleware do so; others need it where a call goes on within the process in
// a way that does not take the context along.
func NewContext(ctx context.Context, p *Principal) context.Context {
	return context.WithValue(ctx, contextKey{}, p)
}

// FromContext returns the customer that a call was made for. It reports false where no access token was verified; the caller is then nobody.
func FromContext(ctx context.Context) (*Principal, bool) {
	p, ok := ctx.Value(contextKey{}).(*Principal)
	return p, ok && p != nil
}

// thumbprint is the value of x5t#S256: the SHA-256 of the certificate in DER (RFC 8705 §3.1).
func thumbprint(cert *x509.Certificate) [sha256.Size]byte { return sha256.Sum256(cert.Raw) }
