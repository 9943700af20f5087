package userauth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4/json"

	"github.com/countersign-mesh/countersign/pkg/userauth/internal/jws"
)

// claims are those of an access token (RFC 9068 §2.2), of the forms that they must have.
type claims struct {
	Issuer    string   `json:"iss"`
	Audience  audience `json:"aud"`
	Expires   *date    `json:"exp"`
	Issued    *date    `json:"iat"`
	NotBefore *date    `json:"nbf"`
	Subject   string   `json:"sub"`
	Client    string   `json:"client_id"`
	TokenID   string   `json:"jti"`
	Scope     string   `json:"scope"`
	Session   string   `json:"sid"`
	ACR       string   `json:"acr"`
	AuthTime  *date    `json:"auth_time"`
	Confirm   struct {
		Thumbprint string `json:"x5t#S256"`
	} `json:"cnf"`

	scopes     []string
	thumbprint [sha256.Size]byte
}

// parseClaims reads the content of a token, whose signature is verified, and fails for one that is incomplete.
func parseClaims(payload []byte) (claims, error) {
	var c claims
	if err := jws.Decode(payload, &c); err != nil {
		return c, err
	}
	if err := c.required(); err != nil {
		return c, err
	}
	for name, value := range map[string]string{
		"sub": c.Subject, "client_id": c.Client, "jti": c.TokenID, "sid": c.Session, "acr": c.ACR,
	} {
		if len(value) > maxName || strings.ContainsFunc(value, unprintable) {
			return c, fmt.Errorf("%s is over %d bytes long, or is not printable ASCII", name, maxName)
		}
	}
	if c.Scope != "" {
		c.scopes = strings.Split(c.Scope, " ")
		if slices.Contains(c.scopes, "") || strings.ContainsFunc(c.Scope, unprintable) {
			return c, errors.New("scope is not a list as RFC 6749 §3.3 has it")
		}
	}
	var err error
	c.thumbprint, err = parseThumbprint(c.Confirm.Thumbprint)
	return c, err
}

// maxName bounds what a token calls somebody or something.
const maxName = 256

func unprintable(r rune) bool { return r < ' ' || r > '~' }

// required fails for the first claim that is missing, of those that an access token must have (RFC 9068 §2.2).
func (c *claims) required() error {
	for _, claim := range []struct {
		name    string
		missing bool
	}{
		{"iss", c.Issuer == ""},
		{"aud", len(c.Audience) == 0},
		{"exp", c.Expires == nil},
		{"iat", c.Issued == nil},
		{"sub", c.Subject == ""},
		{"client_id", c.Client == ""},
		{"jti", c.TokenID == ""},
		{"cnf with x5t#S256", c.Confirm.Thumbprint == ""},
	} {
		if claim.missing {
			return errors.New("there is no " + claim.name)
		}
	}
	return nil
}

// checkClaims holds claims against what this verifier is for. That a token is good yet is found out here, because that does not change back; whether it
// is good still is for Recheck.
func (v *Verifier) checkClaims(c *claims) error {
	latest := v.now().Add(v.leeway)
	switch {
	case c.Issuer != v.issuer:
		return errors.New("iss is another issuer")
	case !slices.Contains(c.Audience, v.audience):
		return errors.New("aud is not this service")
	case c.Issued.time().After(latest):
		return errors.New("iat is in the future")
	case c.NotBefore != nil && c.NotBefore.time().After(latest):
		return errors.New("nbf is in the future")
	case c.AuthTime != nil && c.AuthTime.time().After(latest):
		return errors.New("auth_time is in the future")
	case c.Expires.time().Sub(c.Issued.time()) > maxLifetime:
		return fmt.Errorf("it lives longer than %v", maxLifetime)
	case !c.Expires.time().After(c.Issued.time()):
		return errors.New("exp is not after iat")
	}
	return nil
}

// principal is whom the claims name.
func (c *claims) principal() *Principal {
	p := &Principal{
		Subject: c.Subject, Client: c.Client, Session: c.Session, TokenID: c.TokenID, Scopes: c.scopes, ACR: c.ACR, Expires: c.Expires.time(),
	}
	if c.AuthTime != nil {
		p.AuthTime = c.AuthTime.time()
	}
	return p
}

func parseThumbprint(text string) (sum [sha256.Size]byte, err error) {
	decoded, err := base64.RawURLEncoding.Strict().DecodeString(text)
	// Its length is looked at too, because base64 of Go passes over line breaks, which the RFC forbids.
	if err != nil || len(decoded) != len(sum) || len(text) != base64.RawURLEncoding.EncodedLen(len(sum)) {
		return sum, errors.New("cnf's x5t#S256 is no SHA-256 in base64url (RFC 8705 §3.1)")
	}
	return [sha256.Size]byte(decoded), nil
}

// audience is one text or a list of them (RFC 7519 §4.1.3).
type audience []string

// UnmarshalJSON implements json.Unmarshaler.
func (a *audience) UnmarshalJSON(text []byte) error {
	if len(text) > 0 && text[0] == '[' {
		return json.Unmarshal(text, (*[]string)(a))
	}
	var one *string
	if err := json.Unmarshal(text, &one); err != nil || one == nil {
		return err
	}
	*a = audience{*one}
	return nil
}

// date is a NumericDate (RFC 7519 §2): seconds since 1970.
type date int64

// UnmarshalJSON implements json.Unmarshaler. A date that is a text, or so far away that calculating with it would overflow, is an error.
func (d *date) UnmarshalJSON(text []byte) error {
	const farAway = 1 << 40
	seconds, err := strconv.ParseFloat(string(text), 64)
	if err != nil || seconds < 0 || seconds > farAway || math.IsNaN(seconds) {
		return errors.New("a date is no number of seconds")
	}
	*d = date(seconds)
	return nil
}

func (d *date) time() time.Time { return time.Unix(int64(*d), 0) }

// sameKey reports whether two public keys are one. A Keys that has not changed gives the same pointer, which costs nothing to compare.
func sameKey(a, b any) bool {
	switch a := a.(type) {
	case *ecdsa.PublicKey:
		b, ok := b.(*ecdsa.PublicKey)
		return ok && (a == b || a.Equal(b))
	case ed25519.PublicKey:
		b, ok := b.(ed25519.PublicKey)
		return ok && a.Equal(b)
	default:
		return false
	}
}
