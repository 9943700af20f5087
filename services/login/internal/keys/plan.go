package keys

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"time"
)

// Purpose is what a key signs.
type Purpose string

// The purposes.
const (
	Access      Purpose = "access"
	Transaction Purpose = "transaction"
)

const (
	// SignFor is how long a key signs.
	SignFor = 24 * time.Hour
	// Lead is how long a key has been published at least when it begins to sign. Verifiers fetch the keys each minute, and go on with what they have for an
	// hour when they cannot: those have it by then too. (What no verifier has read is the very first key of a database; it has none before it that it could be missing beside.)
	Lead = 2 * time.Hour
	// keep is for how long a key stays published after it last signed: for as long as another process of this service may still sign with it (maxAge), and what it has signed lives.
	keep = time.Hour
)

// Key is one signing key.
type Key struct {
	ID      string
	Purpose Purpose
	Private []byte // PKCS #8
	// Created is since when it is published, From to Until when it signs, and Expires until when it is published; zero for what has no time yet.
	Created, From, Until, Expires time.Time
}

func (k Key) signs() bool             { return !k.From.IsZero() && k.Until.IsZero() }
func (k Key) waits() bool             { return k.From.IsZero() }
func (k Key) over(now time.Time) bool { return !k.Expires.IsZero() && !now.Before(k.Expires) }

// plan returns the keys as they are to be: one that signs and one that waits, which is published for as long as the other signs, and those before until what they have signed
// is over.
//
// The next key takes over when the one that signs has done so for SignFor and the next was published for Lead, by the clock of whoever comes
// first. A service that was away for long goes on with the keys that it had published before.
func plan(now time.Time, purpose Purpose, keys []Key) ([]Key, error) {
	var planned []Key
	signing, waiting := -1, -1
	for _, k := range keys {
		if k.over(now) {
			continue
		}
		planned = append(planned, k)
		switch {
		case k.signs():
			signing = len(planned) - 1
		case k.waits():
			waiting = len(planned) - 1
		}
	}
	if signing < 0 {
		first, err := newKey(now, purpose)
		if err != nil {
			return nil, err
		}
		first.From = now
		planned = append(planned, first)
		signing = len(planned) - 1
	}
	if waiting >= 0 && now.Sub(planned[signing].From) >= SignFor && now.Sub(planned[waiting].Created) >= Lead {
		planned[signing].Until, planned[signing].Expires = now, now.Add(keep)
		planned[waiting].From = now
		waiting = -1
	}
	if waiting < 0 {
		next, err := newKey(now, purpose)
		if err != nil {
			return nil, err
		}
		planned = append(planned, next)
	}
	return planned, nil
}

func newKey(now time.Time, purpose Purpose) (Key, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Key{}, err
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	return Key{ID: rand.Text(), Purpose: purpose, Private: encoded, Created: now}, err
}
