package txntoken

import "time"

// Received returns a token that this process has from its issuer itself, over a connection on which the issuer has proven who it is, to be sent on with calls (see
// NewContext). Nothing in it was verified, and but for its end nothing is known of it: who is called verifies it.
func Received(raw string, expires time.Time) *Token { return &Token{Expires: expires, raw: &raw} }
