package jws

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4"
)

// Algorithms are those that this project signs tokens with: one over each of the curves that every library has, both with nothing to choose wrongly
// (RFC 8725 §3.2).
func Algorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{jose.ES256, jose.EdDSA}
}

// AlgorithmOf returns the one algorithm that a key may verify with. It fails for a key that is not public, not for signatures, or says that it is for
// another algorithm than it can be.
func AlgorithmOf(key jose.JSONWebKey) (jose.SignatureAlgorithm, error) {
	var algorithm jose.SignatureAlgorithm
	switch public := key.Key.(type) {
	case *ecdsa.PublicKey:
		if public == nil || public.Curve != elliptic.P256() {
			return "", errors.New("the key is on a curve other than P-256")
		}
		if _, err := public.ECDH(); err != nil { // RFC 8725 §3.4: what is not on the curve
			return "", errors.New("the key is no point of its curve")
		}
		algorithm = jose.ES256
	case ed25519.PublicKey:
		if len(public) != ed25519.PublicKeySize {
			return "", errors.New("the key is not of Ed25519's length")
		}
		algorithm = jose.EdDSA
	default:
		return "", fmt.Errorf("a %T is no public key of ES256 or EdDSA", key.Key)
	}
	if key.Algorithm != "" && key.Algorithm != string(algorithm) {
		return "", errors.New("the key says that it is for an algorithm that it cannot be for")
	}
	if key.Use != "" && key.Use != "sig" {
		return "", errors.New("the key says that it is not for signatures")
	}
	return algorithm, nil
}
