// Package jws reads signed tokens, in the one form and with the few header parameters that this project issues. Access tokens and transaction tokens
// are both read by it, so that there is one place to be strict in.
//
// RFC 8725 is the measure: what a token says about itself never chooses how it is verified. The algorithm is one of the caller's list and the key's own
// (§3.1), the type is one that the caller expects (§3.11), and the key is found by its name among keys that the verifier has from elsewhere (§3.10).
package jws

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

const (
	// defaultMaxBytes bounds a token where the caller gives no bound. Access tokens here have some 700 bytes.
	defaultMaxBytes = 8192
	// maxKeyID bounds the name of a key. It is a stranger's text that keys are looked up by.
	maxKeyID = 128
)

// Options say which tokens to take.
type Options struct {
	// Types are the values that the header's typ may have, as they are written; the caller lists "application/x" beside "x" if it takes both (RFC 7515 §4.1.9).
	Types []string
	// Algorithms are those that the header's alg may name. None makes Parse fail.
	Algorithms []jose.SignatureAlgorithm
	// MaxBytes is the length of the longest token; 8,192 if zero.
	MaxBytes int
}

// Parsed is a token whose form is right. Nothing that it says may be believed before Verify. It is immutable.
type Parsed struct {
	// KeyID is the header's kid: the name of the key that is to verify the token.
	KeyID string
	// Algorithm is the header's alg, one of Options.Algorithms.
	Algorithm jose.SignatureAlgorithm

	signed *jose.JSONWebSignature
}

// Parse reads a token in JWS Compact Serialization (RFC 7515 §7.1). It verifies no signature. Its errors hold nothing of the token but its alg and typ,
// shortened: they may be logged.
func Parse(raw string, o Options) (*Parsed, error) {
	if err := checkForm(raw, o.MaxBytes); err != nil {
		return nil, err
	}
	h, err := parseHeader(raw[:strings.IndexByte(raw, '.')])
	if err != nil {
		return nil, err
	}
	if !slices.Contains(o.Algorithms, h.algorithm) {
		return nil, fmt.Errorf("alg is %s, which is not among those taken (RFC 8725 §3.1)", shown(string(h.algorithm)))
	}
	if !slices.Contains(o.Types, h.typ) {
		return nil, fmt.Errorf("typ is %s, not that of a token for this use (RFC 8725 §3.11)", shown(h.typ))
	}
	signed, err := jose.ParseSignedCompact(raw, o.Algorithms)
	if err != nil {
		return nil, errors.New("it is no JWS") // the library's error may hold some of the token
	}
	return &Parsed{KeyID: h.keyID, Algorithm: h.algorithm, signed: signed}, nil
}

// Verify returns the content once the signature is verified. The key must be a public one for signatures, the one that the token names, and of the
// algorithm that the token names: a key is for one algorithm (RFC 8725 §3.1).
func (p *Parsed) Verify(key jose.JSONWebKey) (payload []byte, err error) {
	algorithm, err := AlgorithmOf(key)
	if err != nil {
		return nil, err
	}
	if algorithm != p.Algorithm {
		return nil, fmt.Errorf("alg is %s, and the key is for %s (RFC 8725 §3.1)", p.Algorithm, algorithm)
	}
	if key.KeyID != p.KeyID {
		return nil, errors.New("the key is not the one that the token names")
	}
	payload, err = p.signed.Verify(key.Key)
	if err != nil {
		return nil, errors.New("the signature is not the key's")
	}
	return payload, nil
}

// checkForm looks at a token before any of it is decoded: three parts of base64url, each written in the one way that it can be. Without that the same
// signed token has many spellings, and what is known of one by its digest is not known of the others.
func checkForm(raw string, maxBytes int) error {
	if maxBytes == 0 {
		maxBytes = defaultMaxBytes
	}
	if len(raw) > maxBytes {
		return fmt.Errorf("it has over %d bytes", maxBytes)
	}
	if strings.Count(raw, ".") != 2 {
		return errors.New("it does not have the three parts of a JWS (five would be a JWE)")
	}
	for part := range strings.SplitSeq(raw, ".") {
		if part == "" {
			return errors.New("a part of it is empty")
		}
		if _, err := decode(part); err != nil {
			return err
		}
	}
	return nil
}

// decode is strict: base64 of Go passes over line breaks, and over bits that belong to no byte unless told otherwise.
func decode(part string) ([]byte, error) {
	if strings.ContainsAny(part, "\r\n") {
		return nil, errors.New("a part of it has a line break")
	}
	decoded, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return nil, errors.New("a part of it is not base64url as RFC 7515 §2 has it")
	}
	return decoded, nil
}

// shown is a stranger's text made fit for a log.
func shown(text string) string {
	const enough = 32
	if len(text) > enough {
		return fmt.Sprintf("%q…", text[:enough])
	}
	return fmt.Sprintf("%q", text)
}
