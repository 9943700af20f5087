// Package txntoken makes, sends and verifies transaction tokens (draft-ietf-oauth-transaction-tokens): signed statements of a few minutes that say for which
// customer, for what and with what content a call is made. They travel with the calls that serve one request of a customer, from service to service.
//
// A transaction token is no means of authentication: it says nothing about who calls. That is for the X.509-SVID of the connection, and the policy
// asks for both (see mesh.policy.v1.Rule).
package txntoken

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"
)

const (
	// MetadataKey is the gRPC metadata that a token travels in.
	MetadataKey = "txn-token"
	// Type is the typ of a token's header, as it must be written (draft-ietf-oauth-transaction-tokens §9.1).
	Type = "txntoken+jwt"
	// MaxLifetime is the longest that a token is believed.
	MaxLifetime = 5 * time.Minute
)

// Token is what a transaction token says. A verified one is immutable and safe for concurrent use. However it is printed or logged, the token itself is not in it.
type Token struct {
	// ID names the transaction (txn). It stays the same when a token is renewed.
	ID string
	// Subject is the customer (sub).
	Subject string
	// Scope is for what (scope).
	Scope string
	// Requesters are the SPIFFE IDs of the workloads that asked for the token, the first one first (req_wl).
	Requesters []string
	// Context is what the customer asked for (tctx), and RequestContext how the request came in (rctx).
	Context, RequestContext map[string]string
	// Issued is when it was made (iat), and Expires when it ends (exp).
	Issued, Expires time.Time

	// raw is behind a pointer, which package fmt does not follow: methods do not help a Token that is an unexported field of something else.
	raw *string
}

// Raw returns the token as it travels; empty for one that was neither verified nor issued.
func (t *Token) Raw() string {
	if t == nil || t.raw == nil {
		return ""
	}
	return *t.raw
}

// String names the transaction.
func (t Token) String() string { return fmt.Sprintf("transaction %s", t.ID) }

// Format implements fmt.Formatter, whatever the verb.
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.String()) }

// LogValue implements slog.LogValuer.
func (t Token) LogValue() slog.Value {
	return slog.GroupValue(slog.String("id", t.ID), slog.String("subject", t.Subject), slog.String("scope", t.Scope))
}

type contextKey struct{}

// NewContext returns a context of a call that is made with a token.
func NewContext(ctx context.Context, t *Token) context.Context {
	return context.WithValue(ctx, contextKey{}, t)
}

// FromContext returns the verified token that a call was made with.
func FromContext(ctx context.Context) (*Token, bool) {
	t, ok := ctx.Value(contextKey{}).(*Token)
	return t, ok && t != nil
}
