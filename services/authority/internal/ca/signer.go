package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"
	"net/url"
	"time"
)

// phase is where a signing key stands in its life.
type phase string

const (
	phasePrepared phase = "prepared"
	phaseActive   phase = "active"
	phaseOld      phase = "old"
)

// authorityBackdate is how far back a signing key is valid: a clock that is set back by some minutes must not put the
// whole trust domain into the future.
const authorityBackdate = 10 * time.Minute

// signer is one signing key. It is immutable: a step of the rotation makes a changed copy.
type signer struct {
	// ID names the key: the key ID of its JWTs, the subject key ID of its certificate in hexadecimal.
	ID    string
	Phase phase
	Key   *ecdsa.PrivateKey
	// Cert is nil for a JWT key.
	Cert      *x509.Certificate
	NotBefore time.Time
	NotAfter  time.Time
	// Prepared, Activated and Retired say when it came into its phases.
	Prepared  time.Time
	Activated time.Time
	Retired   time.Time
	// LongestTTL is the longest life that it has given to what it signed.
	LongestTTL time.Duration
}

// valid reports whether the key itself is within its life.
func (s signer) valid(now time.Time) bool { return !now.Before(s.NotBefore) && now.Before(s.NotAfter) }

// leaves is when an old key has nothing unexpired left, and goes from the bundle.
func (s signer) leaves() time.Time {
	last := s.Retired.Add(s.LongestTTL)
	if last.After(s.NotAfter) {
		return s.NotAfter
	}
	return last
}

// newKey returns a P-256 key and the ID that follows from it.
func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	id, err := keyID(&key.PublicKey)
	return key, id, err
}

// keyID is RFC 7093 §2 method 1: the leftmost 160 bits of the SHA-256 of the public key.
func keyID(key *ecdsa.PublicKey) ([]byte, error) {
	bits, err := key.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encode a public key: %w", err)
	}
	sum := sha256.Sum256(bits)
	return sum[:20], nil
}

// newSerial returns a positive serial number of 127 random bits (RFC 5280 §4.1.2.2 asks for at most 20 octets).
func newSerial() (*big.Int, error) {
	for {
		serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
		if err != nil {
			return nil, fmt.Errorf("make a serial number: %w", err)
		}
		if serial.BitLen() > 64 {
			return serial, nil
		}
	}
}

// newJWTSigner makes a JWT key.
func newJWTSigner(config Config, now time.Time) (signer, error) {
	key, id, err := newKey()
	if err != nil {
		return signer{}, err
	}
	return signer{
		ID: hex.EncodeToString(id), Phase: phasePrepared, Key: key, Prepared: now, LongestTTL: config.JWTTTL,
		NotBefore: seconds(now.Add(-authorityBackdate)), NotAfter: seconds(now.Add(config.AuthorityTTL)),
	}, nil
}

// newX509Signer makes a self-signed authority: X509-SVID §3 to §4 for a signing certificate. Its ID is the trust domain's, without
// a path (§5.1).
func newX509Signer(config Config, now time.Time) (signer, error) {
	made, err := newJWTSigner(config, now)
	if err != nil {
		return signer{}, err
	}
	made.LongestTTL = config.SVIDTTL
	serial, err := newSerial()
	if err != nil {
		return signer{}, err
	}
	ski, err := keyID(&made.Key.PublicKey)
	if err != nil {
		return signer{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// The serial number in the subject keeps the subjects of two authorities apart: a verifier that builds its path by
		// names alone would otherwise have to try both.
		Subject: pkix.Name{
			Country: []string{"US"}, Organization: []string{"SPIFFE"},
			CommonName: config.TrustDomain.Name(), SerialNumber: made.ID,
		},
		NotBefore: made.NotBefore, NotAfter: made.NotAfter,
		URIs:                  []*url.URL{config.TrustDomain.ID().URL()},
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true, IsCA: true,
		SubjectKeyId: ski, AuthorityKeyId: ski,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &made.Key.PublicKey, made.Key)
	if err != nil {
		return signer{}, fmt.Errorf("sign an authority's certificate: %w", err)
	}
	if made.Cert, err = x509.ParseCertificate(der); err != nil {
		return signer{}, fmt.Errorf("read back an authority's certificate: %w", err)
	}
	return made, nil
}

// seconds cuts a time as a certificate and a JWT do.
func seconds(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }
