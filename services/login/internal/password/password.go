// Package password keeps passwords as argon2id hashes (RFC 9106).
package password

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/text/secure/precis"
)

// The parameters are the least that OWASP's Password Storage Cheat Sheet calls enough, with 19 MiB: an attacker who has the hashes pays them for
// each guess, and this process for each log-in.
const (
	memory  = 19 << 10 // KiB
	passes  = 2
	threads = 1
	size    = 32
	salt    = 16
	// atOnce bounds the memory: so many hashes are computed at a time, others wait for their turn.
	atOnce = 2
)

// errForm means that what the database has is not what Hash wrote.
var errForm = errors.New("the hash of a password is not of the form that is written here")

// Hasher hashes passwords, two at a time. It is safe for concurrent use. The zero value is not usable; see New.
type Hasher struct {
	turns chan struct{}
	decoy string
}

// New returns a Hasher.
func New() *Hasher {
	decoy := make([]byte, salt)
	_, _ = rand.Read(decoy) // it never fails (crypto/rand)
	return &Hasher{turns: make(chan struct{}, atOnce), decoy: encode(decoy, make([]byte, size))}
}

// Hash returns the hash of a password with a salt of its own, as a PHC string. Passwords that differ only in how Unicode writes them are
// one (RFC 8265 §4.2). It fails for one with characters that no password may have, and when ctx ends.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	prepared, err := precis.OpaqueString.Bytes([]byte(password))
	if err != nil {
		return "", fmt.Errorf("prepare the password: %w", err)
	}
	own := make([]byte, salt)
	_, _ = rand.Read(own) // it never fails (crypto/rand)
	sum, err := h.sum(ctx, prepared, own)
	if err != nil {
		return "", err
	}
	return encode(own, sum), nil
}

// Matches reports whether a hash is of a password. An empty hash, of somebody who does not exist, matches none, and finding that out takes as long.
func (h *Hasher) Matches(ctx context.Context, hash, password string) (bool, error) {
	known := hash != ""
	if !known {
		hash = h.decoy
	}
	own, want, err := decode(hash)
	if err != nil {
		return false, err
	}
	prepared, err := precis.OpaqueString.Bytes([]byte(password))
	if err != nil { // nobody's: it is compared all the same, for as long as another
		prepared, known = []byte(password), false
	}
	sum, err := h.sum(ctx, prepared, own)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(sum, want) == 1 && known, nil
}

func (h *Hasher) sum(ctx context.Context, password, salt []byte) ([]byte, error) {
	select {
	case h.turns <- struct{}{}:
		defer func() { <-h.turns }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait to look at a password: %w", context.Cause(ctx))
	}
	return argon2.IDKey(password, salt, passes, memory, threads, size), nil
}

// header is what a hash begins with: the algorithm, its version 1.3 and its parameters.
func header() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$", argon2.Version, memory, passes, threads)
}

func encode(salt, sum []byte) string {
	return header() + base64.RawStdEncoding.EncodeToString(salt) + "$" + base64.RawStdEncoding.EncodeToString(sum)
}

// decode reads what encode has written. Other parameters than today's would be read from the hash; there have been none.
func decode(hash string) (ownSalt, sum []byte, err error) {
	rest, ok := strings.CutPrefix(hash, header())
	first, second, cut := strings.Cut(rest, "$")
	if !ok || !cut {
		return nil, nil, errForm
	}
	ownSalt, err = base64.RawStdEncoding.DecodeString(first)
	if err == nil {
		sum, err = base64.RawStdEncoding.DecodeString(second)
	}
	if err != nil || len(ownSalt) != salt || len(sum) != size {
		return nil, nil, errForm
	}
	return ownSalt, sum, nil
}
