package jwks

import (
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"

	"github.com/countersign-mesh/countersign/pkg/userauth/internal/jws"
)

const (
	// maxDocument and maxKeys bound what is read of a JWK Set.
	maxDocument = 256 << 10
	maxKeys     = 100
)

// keys are those of one document. They are immutable.
type keys struct {
	document []byte
	byID     map[string]jose.JSONWebKey
	fetched  time.Time
}

// parse reads a JWK Set. A key that is not good is left out, and what is wrong with it is in bad: the others are as good as without it (RFC 7517 §5).
// A set without any key is a good one: so an issuer withdraws the last.
func parse(document []byte) (byID map[string]jose.JSONWebKey, bad []error, err error) {
	if len(document) > maxDocument {
		return nil, nil, fmt.Errorf("the JWK Set has over %d bytes", maxDocument)
	}
	var set struct {
		Keys *[]json.RawMessage `json:"keys"`
	}
	if err := jws.Decode(document, &set); err != nil || set.Keys == nil {
		return nil, nil, errors.New("it is no JWK Set (RFC 7517 §5)")
	}
	if len(*set.Keys) > maxKeys {
		return nil, nil, fmt.Errorf("the JWK Set has over %d keys", maxKeys)
	}
	byID = make(map[string]jose.JSONWebKey)
	seen := make(map[string]int)
	for i, text := range *set.Keys {
		key, err := parseKey(text)
		if seen[key.KeyID]++; err != nil {
			bad = append(bad, fmt.Errorf("key %d of the JWK Set: %w", i+1, err))
			continue
		}
		byID[key.KeyID] = key
	}
	for kid, times := range seen {
		if _, ok := byID[kid]; ok && times > 1 { // which of them is meant cannot be known (RFC 7517 §4.5)
			delete(byID, kid)
			bad = append(bad, fmt.Errorf("%d keys of the JWK Set have the same kid", times))
		}
	}
	return byID, bad, nil
}

// parseKey reads one key. It must say what it is for: a public key to verify signatures with, of one algorithm (RFC 8725 §3.1).
func parseKey(text []byte) (jose.JSONWebKey, error) {
	var named struct {
		KeyID string `json:"kid"`
		Use   string `json:"use"`
		Alg   string `json:"alg"`
	}
	if err := jws.Decode(text, &named); err != nil {
		return jose.JSONWebKey{}, err
	}
	var key jose.JSONWebKey
	if err := key.UnmarshalJSON(text); err != nil {
		return jose.JSONWebKey{KeyID: named.KeyID}, errors.New("it cannot be read") // the library's error may hold some of it
	}
	switch {
	case key.KeyID == "":
		return key, errors.New("it has no kid")
	case key.Use != "sig":
		return key, errors.New(`its use is not "sig"`)
	case key.Algorithm == "":
		return key, errors.New("it has no alg")
	}
	_, err := jws.AlgorithmOf(key)
	return key, err
}
