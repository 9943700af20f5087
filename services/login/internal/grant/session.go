// Package grant is what a log-in gives: an authorization code that is good once, for a minute; with it a session, its access tokens of five minutes, and one refresh token
// at a time. All of it is bound to the device that logged in.
//
// A refresh token that was lost on its way to the device: the device sends the same request once more, with the same Idempotency-Key
// (draft-ietf-httpapi-idempotency-key-header), and is given the same refresh token once more, as long as that has not been used. Whoever else comes with a
// refresh token that was used already ends the session (RFC 9700 §4.14.2): it, or the one that followed, was stolen, and nobody knows from whom. So does a client that sends no
// such header, or another one. It then has to log in again.
package grant

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	// codeLifetime is short: the device has the code in its hand (RFC 6749 §4.1.2 recommends ten minutes at most).
	codeLifetime = time.Minute
	// sessionLifetime is how long a log-in lasts, whatever happens, and idleLifetime how long while nothing happens.
	sessionLifetime = 30 * 24 * time.Hour
	idleLifetime    = 7 * 24 * time.Hour
	// retryLifetime is how long an answer to a refresh can be given once more.
	retryLifetime = 10 * time.Minute
	// otpLifetime is how long a one-time code that was proven counts. After that a refresh gives tokens of a log-in without one.
	otpLifetime = 10 * time.Minute

	secretBytes = 32
)

var (
	// ErrGrant is returned for a code or a refresh token that is not good. It is the same whatever is wrong with it.
	ErrGrant = errors.New("the code or the refresh token is not good, or not this client's")
	// ErrScope is returned for scopes that there are not, or that were not granted.
	ErrScope = errors.New("there is no such scope, or it was not granted")
)

// Session is one log-in.
type Session struct {
	ID, DeviceID string
	Scopes       []string
	OTP          bool // whether a one-time code was proven
	AuthTime     time.Time
	Expires      time.Time

	CodeDigest    []byte
	CodeChallenge string
	CodeUntil     time.Time
	CodeUsed      bool

	RefreshDigest []byte
	RefreshUntil  time.Time
	RetryFrom     []byte
	RetryKey      []byte
	RetrySalt     []byte
	RetryUntil    time.Time

	Ended time.Time // zero while it lasts
}

// Request is an authorization request that has been proven.
type Request struct {
	DeviceID  string
	Scopes    []string
	OTP       bool
	Challenge string
}

// begin returns a new session and its code.
func begin(r Request, now time.Time) (s Session, code string) {
	code = random()
	return Session{
		ID: rand.Text(), DeviceID: r.DeviceID, Scopes: r.Scopes, OTP: r.OTP, AuthTime: now, Expires: now.Add(sessionLifetime),
		CodeDigest: Digest(code), CodeChallenge: r.Challenge, CodeUntil: now.Add(codeLifetime),
	}, code
}

// exchange uses the code up and returns the first refresh token. A code that was used already ends what it gave (RFC 6749 §4.1.2), whoever has it; one with
// a wrong verifier ends before it began, so that the verifier cannot be guessed.
func (s *Session) exchange(deviceID, verifier string, now time.Time) (refresh string, err error) {
	if !s.lasts(now) {
		return "", ErrGrant
	}
	sum := sha256.Sum256([]byte(verifier))
	challenge := base64.RawURLEncoding.EncodeToString(sum[:]) // RFC 7636 §4.6
	switch {
	case s.CodeUsed:
		s.Ended = now
		return "", ErrGrant
	case s.DeviceID != deviceID || !now.Before(s.CodeUntil):
		return "", ErrGrant
	case subtle.ConstantTimeCompare([]byte(challenge), []byte(s.CodeChallenge)) != 1:
		s.Ended = now
		return "", ErrGrant
	}
	s.CodeUsed = true
	refresh = s.ID + "." + random()
	s.keep(refresh, now)
	return refresh, nil
}

// refresh exchanges the refresh token for the next.
func (s *Session) refresh(deviceID, token, retryKey string, now time.Time) (next string, err error) {
	if s.DeviceID != deviceID || !s.lasts(now) || !s.CodeUsed {
		return "", ErrGrant
	}
	presented := Digest(token)
	if equal(presented, s.RefreshDigest) {
		if !now.Before(s.RefreshUntil) {
			return "", ErrGrant
		}
		salt := make([]byte, secretBytes)
		_, _ = rand.Read(salt) // it never fails (crypto/rand)
		if next, err = s.follow(token, salt); err != nil {
			return "", err
		}
		s.RetryFrom, s.RetryKey, s.RetrySalt, s.RetryUntil = nil, nil, nil, time.Time{}
		if retryKey != "" {
			s.RetryFrom, s.RetryKey, s.RetrySalt, s.RetryUntil = presented, Digest(retryKey), salt, now.Add(retryLifetime)
		}
		s.keep(next, now)
		return next, nil
	}
	if retryKey != "" && equal(presented, s.RetryFrom) && equal(Digest(retryKey), s.RetryKey) && now.Before(s.RetryUntil) {
		return s.follow(token, s.RetrySalt)
	}
	s.Ended = now
	return "", ErrGrant
}

// follow returns the refresh token that follows one. It is made of that, which only the device has, and of the salt, which only the database has.
func (s *Session) follow(token string, salt []byte) (string, error) {
	secret, err := hkdf.Key(sha256.New, []byte(token), salt, "countersign refresh token 1", secretBytes)
	if err != nil {
		return "", fmt.Errorf("make a refresh token: %w", err)
	}
	return s.ID + "." + base64.RawURLEncoding.EncodeToString(secret), nil
}

func (s *Session) keep(refresh string, now time.Time) {
	s.RefreshDigest, s.RefreshUntil = Digest(refresh), now.Add(idleLifetime)
}

func (s *Session) lasts(now time.Time) bool { return s.Ended.IsZero() && now.Before(s.Expires) }

// sessionOf returns the session that a refresh token names.
func sessionOf(refresh string) (id string, ok bool) {
	id, secret, ok := strings.Cut(refresh, ".")
	return id, ok && id != "" && secret != ""
}

// Digest is what is kept of a secret of 256 random bits: nobody finds it again from its SHA-256.
func Digest(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

func equal(a, b []byte) bool { return len(b) > 0 && subtle.ConstantTimeCompare(a, b) == 1 }

func random() string {
	secret := make([]byte, secretBytes)
	_, _ = rand.Read(secret) // it never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(secret)
}
