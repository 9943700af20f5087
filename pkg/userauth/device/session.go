package device

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// early is how long before its end a token is not used any more: it has to be good when it arrives.
const early = 30 * time.Second

// ErrEnded is returned once a session has ended: the owner has to log in again.
var ErrEnded = errors.New("the session has ended; log in again")

// Session is one log-in. It is safe for concurrent use.
type Session struct {
	device *Device
	client *client
	// turn is that of whoever changes the tokens; capacity 1, holding the one place is the turn. It can be waited for with a context.
	turn chan struct{}
	// state is under turn, and behind a function, into which package fmt does not look.
	state func() *state
	// dir is where the state is kept; empty when it is in memory alone.
	dir string
}

// state is the tokens of a session.
type state struct {
	Access  string    `json:"access_token"`
	Expires time.Time `json:"expires"`
	Refresh string    `json:"refresh_token"`
	Scope   string    `json:"scope"`
	// Retry names the refresh that was asked for and is not answered yet. The same request once more has the same answer: one that was lost on its way does not
	// end the session.
	Retry string `json:"retry,omitempty"`
}

// Login logs the device's owner in for scopes, and proves a one-time code as well unless otp is empty: the tokens of the next ten minutes are then of
// urn:bank:acr:2. An *Error says what the server did not like.
func (d *Device) Login(ctx context.Context, s Server, username, password, otp string, scopes ...string) (*Session, error) {
	c, err := newClient(s, d)
	if err != nil {
		return nil, err
	}
	verifier := rand.Text() + rand.Text() // 52 characters (RFC 7636 §4.1)
	challenge := sha256.Sum256([]byte(verifier))
	parameters := url.Values{
		"client_id": {d.ID()}, "username": {username}, "password": {password}, "scope": {strings.Join(scopes, " ")},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])}, "code_challenge_method": {"S256"},
	}
	if otp != "" {
		parameters.Set("otp", otp)
		parameters.Set("acr_values", "urn:bank:acr:2")
	}
	var authorized struct {
		Code string `json:"authorization_code"`
	}
	if err := c.post(ctx, "/authorize-challenge", formCall(parameters), http.StatusOK, &authorized); err != nil {
		return nil, fmt.Errorf("log in: %w", err)
	}
	session := newSession(d, c, &state{}, "")
	if err := session.grant(ctx, call{}, url.Values{"grant_type": {"authorization_code"}, "code": {authorized.Code}, "code_verifier": {verifier}}); err != nil {
		return nil, fmt.Errorf("log in: %w", err)
	}
	return session, nil
}

func newSession(d *Device, c *client, s *state, dir string) *Session {
	return &Session{device: d, client: c, turn: make(chan struct{}, 1), state: func() *state { return s }, dir: dir}
}

// String says whose session it is.
func (s *Session) String() string { return "session of " + s.device.String() }

// grant asks the token endpoint, and takes the tokens that it gives.
func (s *Session) grant(ctx context.Context, with call, parameters url.Values) error {
	parameters.Set("client_id", s.device.ID())
	request := formCall(parameters)
	request.retryKey = with.retryKey
	asked := time.Now()
	var granted struct {
		Access  string `json:"access_token"`
		Type    string `json:"token_type"`
		Expires int    `json:"expires_in"`
		Refresh string `json:"refresh_token"`
		Scope   string `json:"scope"`
	}
	if err := s.client.post(ctx, "/token", request, http.StatusOK, &granted); err != nil {
		return err
	}
	if granted.Access == "" || granted.Refresh == "" || !strings.EqualFold(granted.Type, "Bearer") || granted.Expires <= 0 {
		return errors.New("the authorization server gave no tokens")
	}
	*s.state() = state{
		Access: granted.Access, Expires: asked.Add(time.Duration(granted.Expires) * time.Second), Refresh: granted.Refresh, Scope: granted.Scope,
	}
	return nil
}

// Token returns an access token that is good for a while yet; it asks for a new one when need be. Of many who ask at once, one does. The error wraps ErrEnded
// when the server does not renew the session any more; after any other, the next call tries again.
func (s *Session) Token(ctx context.Context) (string, error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if s.fresh() {
		return s.state().Access, nil
	}
	if s.state().Refresh == "" {
		return "", ErrEnded
	}
	if err := s.locked(ctx, s.renew); err != nil {
		return "", err
	}
	return s.state().Access, nil
}

func (s *Session) fresh() bool { return time.Now().Add(early).Before(s.state().Expires) }

// renew exchanges the refresh token. It is called by one at a time, of all processes that have the session.
func (s *Session) renew(ctx context.Context) error {
	if s.fresh() { // another process has renewed it
		return nil
	}
	if s.state().Refresh == "" {
		return ErrEnded
	}
	if s.state().Retry == "" {
		s.state().Retry = rand.Text()
		if err := s.store(); err != nil { // before it is sent, so that it can be sent again whatever happens
			return err
		}
	}
	err := s.grant(ctx, call{retryKey: s.state().Retry}, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {s.state().Refresh}})
	if refused, ok := errors.AsType[*Error](err); ok && (refused.Code == "invalid_grant" || refused.Code == "invalid_client") {
		*s.state() = state{}
		return errors.Join(fmt.Errorf("%w: %w", ErrEnded, err), s.store())
	}
	if err != nil {
		return fmt.Errorf("renew the access token: %w", err)
	}
	return s.store()
}

// Scopes returns what the session's tokens are for.
func (s *Session) Scopes() []string {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	return strings.Fields(s.state().Scope)
}

// Revoke ends the session and its tokens, everywhere.
func (s *Session) Revoke(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return s.locked(ctx, func(ctx context.Context) error {
		if s.state().Refresh == "" {
			return nil
		}
		parameters := url.Values{"client_id": {s.device.ID()}, "token": {s.state().Refresh}, "token_type_hint": {"refresh_token"}}
		if err := s.client.post(ctx, "/revoke", formCall(parameters), http.StatusOK, nil); err != nil {
			return fmt.Errorf("revoke the session: %w", err)
		}
		*s.state() = state{}
		s.client.close()
		return s.store()
	})
}
