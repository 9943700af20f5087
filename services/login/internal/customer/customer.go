// Package customer knows who the bank's customers are, and by what they prove it: a password, and one-time codes.
package customer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"
	"github.com/pquerna/otp/totp"

	"github.com/countersign-mesh/countersign/services/login/internal/password"
)

var (
	// ErrTaken is returned for a customer or a user name that is there already.
	ErrTaken = errors.New("the customer or the user name is taken")
	// ErrWeak is returned for a password that is guessed early.
	ErrWeak = errors.New("the password is too weak: it is the user name, or has too few different characters, or some that passwords cannot have")
	// ErrWrong is returned for whoever is not who they say. It is the same for a user name that nobody has, a wrong password, and a one-time
	// code that is wrong, old or was used.
	ErrWrong = errors.New("the user name, the password or the one-time code is wrong")
	// ErrUnknown is returned for a customer who is not there.
	ErrUnknown = errors.New("no such customer")
)

const (
	period = 30 // seconds, of a one-time code (RFC 6238 §4.1)
	// skew is how many codes before and after the present one are good too: clocks differ, and typing takes a while (RFC 6238 §5.2).
	skew = 1
	// leastDistinct is how many different characters a password has at least.
	leastDistinct = 5
)

// Customer is what is known of a customer.
type Customer struct {
	ID, Username string
	// PasswordHash is what package password made of the password.
	PasswordHash string
	// Secret is that of the one-time codes, in base 32.
	Secret string
	// Step is the time step of the last code that was accepted.
	Step int64
}

// Proof is that somebody has proven to be a customer. Whoever acts on it has to use up its code in the same transaction.
type Proof struct {
	CustomerID string
	// Step is the time step of the one-time code that was proven; 0 when there was none.
	Step int64
}

// Store keeps customers.
type Store interface {
	// AddCustomer stores a customer, or fails with ErrTaken.
	AddCustomer(ctx context.Context, c Customer, at time.Time) error
	// CustomerByName returns a customer, or ErrUnknown.
	CustomerByName(ctx context.Context, username string) (Customer, error)
}

// Register is the register of customers. It is safe for concurrent use.
type Register struct {
	store  Store
	hasher *password.Hasher
	now    func() time.Time
}

// New returns a Register.
func New(store Store, hasher *password.Hasher, now func() time.Time) *Register {
	return &Register{store: store, hasher: hasher, now: now}
}

// Add makes a customer known and returns the secret of their one-time codes.
func (r *Register) Add(ctx context.Context, id, username, secret string) (otpSecret string, err error) {
	if weak(username, secret) {
		return "", ErrWeak
	}
	hash, err := r.hasher.Hash(ctx, secret)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return "", err
	}
	if err != nil {
		return "", ErrWeak // the library's words would tell of the password
	}
	key, err := totp.Generate(totp.GenerateOpts{Issuer: "bank", AccountName: username, Period: period})
	if err != nil {
		return "", fmt.Errorf("make the secret of one-time codes: %w", err)
	}
	c := Customer{ID: id, Username: username, PasswordHash: hash, Secret: key.Secret()}
	return c.Secret, r.store.AddCustomer(ctx, c, r.now())
}

// weak is for what anybody would try first. The contract has the least length.
func weak(username, secret string) bool {
	different := map[rune]bool{}
	for _, c := range secret {
		different[c] = true
	}
	return len(different) < leastDistinct || strings.Contains(strings.ToLower(secret), username) && len(secret) < 2*len(username)+8
}

// Authenticate returns whom a user name, a password and, unless it is empty, a one-time code prove. The error is ErrWrong whatever of it is wrong, and it takes as long
// to find out.
func (r *Register) Authenticate(ctx context.Context, username, secret, code string) (Proof, error) {
	c, err := r.store.CustomerByName(ctx, username)
	if err != nil && !errors.Is(err, ErrUnknown) {
		return Proof{}, err
	}
	matches, err := r.hasher.Matches(ctx, c.PasswordHash, secret)
	if err != nil {
		return Proof{}, fmt.Errorf("look at a password: %w", err)
	}
	proof := Proof{CustomerID: c.ID}
	if code != "" {
		proof.Step = step(c.Secret, code, r.now())
		matches = matches && proof.Step > c.Step
	}
	if !matches {
		return Proof{}, ErrWrong
	}
	return proof, nil
}

// step returns the time step that a code is of, and 0 when it is of none that is good now.
func step(secret, code string, now time.Time) int64 {
	current := now.Unix() / period
	for candidate := current - skew; candidate <= current+skew; candidate++ {
		ok, err := hotp.ValidateCustom(code, uint64(candidate), secret, hotp.ValidateOpts{Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1}) //nolint:gosec // G115: times are after 1970
		if err == nil && ok {
			return candidate
		}
	}
	return 0
}
