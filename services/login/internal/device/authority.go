// Package device is the bank's device authority, and the devices that it has certified. Its root has nothing to do with the identities of workloads.
package device

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"
)

const (
	// Lifetime is how long a device's certificate is good.
	Lifetime     = 90 * 24 * time.Hour
	rootLifetime = 10 * 365 * 24 * time.Hour
	// backdate is for devices whose clocks are behind.
	backdate = 5 * time.Minute
	// serialBits is more than anybody guesses, and within RFC 5280 §4.1.2.2.
	serialBits = 127
)

// ErrRequest is returned for a certificate signing request that is not to be signed.
var ErrRequest = errors.New("the certificate signing request is not one in PEM of a key on P-256 or P-384, or of Ed25519, signed with that key")

// Root is a certificate of the authority, and its key.
type Root struct {
	Certificate []byte // DER
	Key         []byte // PKCS #8
	Created     time.Time
}

// Roots keeps roots.
type Roots interface {
	// EnsureRoot returns the roots, after it has stored one if there were none.
	EnsureRoot(ctx context.Context, fresh Root) ([]Root, error)
}

// Authority signs the certificates of devices. It does not change and is safe for concurrent use.
type Authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	all         [][]byte
	pool        *x509.CertPool
}

// OpenAuthority returns the one authority of a database.
func OpenAuthority(ctx context.Context, store Roots, now time.Time) (*Authority, error) {
	fresh, err := newRoot(now)
	if err != nil {
		return nil, fmt.Errorf("make a device authority: %w", err)
	}
	roots, err := store.EnsureRoot(ctx, fresh)
	if err != nil {
		return nil, fmt.Errorf("read the device authority: %w", err)
	}
	a := &Authority{pool: x509.NewCertPool()}
	for _, root := range roots {
		if a.certificate, err = x509.ParseCertificate(root.Certificate); err != nil {
			return nil, fmt.Errorf("read the device authority: %w", err)
		}
		key, err := x509.ParsePKCS8PrivateKey(root.Key)
		if err != nil {
			return nil, errors.New("read the device authority: its key cannot be read") // the cause may hold some of it
		}
		var ok bool
		if a.key, ok = key.(*ecdsa.PrivateKey); !ok {
			return nil, errors.New("read the device authority: its key is not of ECDSA")
		}
		a.pool.AddCert(a.certificate)
		a.all = append(a.all, root.Certificate)
	}
	return a, nil
}

// Pool returns what devices' certificates are verified with.
func (a *Authority) Pool() *x509.CertPool { return a.pool }

// Certificates returns the authority's own, in DER.
func (a *Authority) Certificates() [][]byte { return a.all }

func newRoot(now time.Time) (Root, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Root{}, err
	}
	serial, err := newSerial()
	if err != nil {
		return Root{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "Device authority"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs devices, and no further authority
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return Root{}, err
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	return Root{Certificate: der, Key: encoded, Created: now}, err
}

// issue signs a device's certificate. Of the request it takes the key and nothing else: what else a certificate says is the authority's to say.
func (a *Authority) issue(id string, request *x509.CertificateRequest, now time.Time) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: id},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(Lifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, request.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// ParseRequest reads a request and verifies that who made it has the key (RFC 2986 §4.2). The error is ErrRequest.
func ParseRequest(text []byte) (*x509.CertificateRequest, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) != 0 {
		return nil, ErrRequest
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || request.CheckSignature() != nil {
		return nil, ErrRequest
	}
	switch key := request.PublicKey.(type) {
	case ed25519.PublicKey:
		return request, nil
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() || key.Curve == elliptic.P384() {
			return request, nil
		}
	}
	return nil, ErrRequest
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits))
	if err != nil {
		return nil, err
	}
	return n.Add(n, big.NewInt(1)), nil // it is positive (RFC 5280 §4.1.2.2)
}

func digest(request *x509.CertificateRequest) []byte {
	sum := sha256.Sum256(request.RawSubjectPublicKeyInfo)
	return sum[:]
}
