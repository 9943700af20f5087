// Package userauth verifies the access tokens of people at the edge of a mesh: OAuth 2.0 tokens that are bound to the certificate that the device of
// their owner connects with, so that a stolen one is of no use to anybody else.
//
// A token is a JWT of the profile of RFC 9068, bound to a client certificate as RFC 8705 §3 has it, and verified as strictly as RFC 8725 advises. A
// Verifier decides on one. Middleware asks it for each HTTP request, UnaryServerInterceptor and StreamServerInterceptor for each gRPC call and for as
// long as it lasts. The customer is then a Principal in the context: see FromContext.
//
// The packages below do the rest: jwks has an issuer's keys, edge has the TLS that the certificate comes from, txntoken carries on inside the mesh what
// the customer has asked for.
package userauth

import "context"

// RequireScope fails unless the call is made for a customer whose token has a scope. A handler may return its error, an *Error, as it is.
func RequireScope(ctx context.Context, scope string) error {
	p, ok := FromContext(ctx)
	switch {
	case !ok:
		return absent("the call is made for nobody")
	case !p.HasScope(scope):
		return &Error{kind: ErrInsufficientScope, reason: "the token lacks the scope " + scope, scope: scope}
	}
	return nil
}

// RequireACR fails unless the customer was authenticated in one of the ways given (RFC 9470). Its error, an *Error, tells the client to have them
// authenticated so, and to come again: a handler may return it as it is.
func RequireACR(ctx context.Context, acr ...string) error {
	p, ok := FromContext(ctx)
	if !ok {
		return absent("the call is made for nobody")
	}
	for _, enough := range acr {
		if p.ACR == enough && enough != "" {
			return nil
		}
	}
	return &Error{kind: ErrInsufficientUserAuthentication, reason: "the customer was authenticated in another way than is needed", acr: acr}
}
