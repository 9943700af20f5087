package txntoken

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/userauth/internal/jws"
)

const (
	// maxSubject bounds a customer's name, maxScope what is granted, and maxRequesters how many workloads may have asked: the first one and a renewal or two.
	maxSubject    = 256
	maxScope      = 256
	maxRequesters = 4
)

var (
	// It becomes part of logs, of keys of databases and of requests.
	transactionID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	// RFC 6749 §3.3.
	scopes = regexp.MustCompile(`^[\x21\x23-\x5B\x5D-\x7E]+( [\x21\x23-\x5B\x5D-\x7E]+)*$`)
)

// claims is the content of a token (draft-ietf-oauth-transaction-tokens §9.2).
type claims struct {
	Issuer         string             `json:"iss,omitempty"`
	Audience       texts              `json:"aud,omitempty"`
	Issued         *int64             `json:"iat,omitempty"`
	NotBefore      *int64             `json:"nbf,omitempty"`
	Expires        *int64             `json:"exp,omitempty"`
	Transaction    string             `json:"txn,omitempty"`
	Subject        string             `json:"sub,omitempty"`
	Scope          string             `json:"scope,omitempty"`
	Requesters     texts              `json:"req_wl,omitempty"`
	Context        map[string]*string `json:"tctx,omitempty"`
	RequestContext map[string]*string `json:"rctx,omitempty"`
}

// texts is a JSON text, or an array of them.
type texts []string

// UnmarshalJSON implements json.Unmarshaler.
func (t *texts) UnmarshalJSON(text []byte) error {
	var one *string
	if err := json.Unmarshal(text, &one); err == nil && one != nil {
		*t = texts{*one}
		return nil
	}
	var several []*string
	if err := json.Unmarshal(text, &several); err != nil {
		return err
	}
	*t = texts{}
	for _, s := range several {
		if s == nil {
			return errNull
		}
		*t = append(*t, *s)
	}
	return nil
}

// MarshalJSON implements json.Marshaler.
func (t texts) MarshalJSON() ([]byte, error) {
	if len(t) == 1 {
		return json.Marshal(t[0])
	}
	return json.Marshal([]string(t))
}

var errNull = errors.New("null is no text")

// parseClaims reads the content of a token whose signature is verified.
func parseClaims(content []byte) (*claims, error) {
	c := &claims{}
	if err := jws.Decode(content, c); err != nil {
		return nil, fmt.Errorf("the content: %w", err)
	}
	return c, nil
}

// token is what the claims say.
func (c *claims) token(raw string) (*Token, error) {
	if c.Issued == nil || c.Expires == nil {
		return nil, errors.New("iat or exp is missing")
	}
	t := &Token{
		ID: c.Transaction, Subject: c.Subject, Scope: c.Scope, Requesters: c.Requesters,
		Issued: time.Unix(*c.Issued, 0), Expires: time.Unix(*c.Expires, 0), raw: &raw,
	}
	var err error
	if t.Context, err = flat(c.Context); err != nil {
		return nil, fmt.Errorf("tctx: %w", err)
	}
	if t.RequestContext, err = flat(c.RequestContext); err != nil {
		return nil, fmt.Errorf("rctx: %w", err)
	}
	if err := t.check(); err != nil {
		return nil, err
	}
	return t, nil
}

// check fails for what no transaction token says.
func (t *Token) check() error {
	var errs []error
	if !transactionID.MatchString(t.ID) {
		errs = append(errs, errors.New("txn is missing, or is not 1 to 64 letters, digits, dots, dashes and underscores"))
	}
	if t.Subject == "" || len(t.Subject) > maxSubject || strings.ContainsFunc(t.Subject, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		errs = append(errs, errors.New("sub is missing, too long, or has control characters"))
	}
	if len(t.Scope) > maxScope || !scopes.MatchString(t.Scope) {
		errs = append(errs, errors.New("scope is missing, too long, or no scope of RFC 6749 §3.3"))
	}
	if n := len(t.Requesters); n == 0 || n > maxRequesters {
		errs = append(errs, fmt.Errorf("req_wl names %d workloads, which is to be 1 to %d", n, maxRequesters))
	}
	for _, id := range t.Requesters {
		if _, err := spiffeid.FromString(id); err != nil {
			errs = append(errs, fmt.Errorf("req_wl: %w", err))
		}
	}
	if life := t.Expires.Sub(t.Issued); life <= 0 || life > MaxLifetime {
		errs = append(errs, fmt.Errorf("it lives for %v, which is to be %v at most (exp - iat)", life, MaxLifetime))
	}
	return errors.Join(errs...)
}

func flat(written map[string]*string) (map[string]string, error) {
	values := make(map[string]string, len(written))
	for name, value := range written {
		if value == nil {
			return nil, errNull
		}
		values[name] = *value
	}
	return values, nil
}

func pointers(values map[string]string) map[string]*string {
	written := make(map[string]*string, len(values))
	for name, value := range values {
		written[name] = &value
	}
	return written
}
