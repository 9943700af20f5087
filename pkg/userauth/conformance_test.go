package userauth_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/pkg/userauth/edge"
)

// A token is nothing without the certificate that it is bound to: where the edge lets clients in that have none, too.
func TestATokenWithoutACertificateIsRefused(t *testing.T) {
	t.Parallel()
	holds(t, "RFC 8705 §3 mutual-tls")
	w := newWorld(t)
	w.edge = []edge.Option{edge.WithOptionalCertificate()}
	w.assertRefused(t, w.serve(), tls.Certificate{}, "Bearer "+w.token(nil))
}

// The edge knows that mutual TLS is to be used before it has seen a token: who has no certificate does not get as far as to show one.
func TestTheEdgeAsksForACertificateInTheHandshake(t *testing.T) {
	t.Parallel()
	holds(t, "RFC 8705 §3 advance-knowledge")
	w := newWorld(t)
	address := w.serve().http
	for name, c := range map[string]struct {
		cert tls.Certificate
		in   bool
	}{"a device": {w.phone, true}, "nobody": {tls.Certificate{}, false}} {
		conn, err := tls.Dial("tcp", address, w.clientTLS(c.cert))
		if err == nil {
			// In TLS 1.3 a client learns with the first bytes what became of its certificate.
			_, _ = conn.Write([]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")) // it fails when the edge was quicker
			_, err = conn.Read(make([]byte, 1))
			_ = conn.Close()
		}
		if (err == nil) != c.in {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// signers are the private keys of an issuer.
type signers map[string]jose.JSONWebKey

func (s signers) Key(_ context.Context, kid string) (jose.JSONWebKey, error) {
	if key, ok := s[kid]; ok {
		return key.Public(), nil
	}
	return jose.JSONWebKey{}, userauth.ErrUnknownKey
}

// An issuer goes from one algorithm to another without a moment in which its tokens are not good: while both keys are published, so are both tokens.
func TestKeysOfEachAlgorithmAreLetIn(t *testing.T) {
	t.Parallel()
	holds(t, "RFC 8725 §3.2 agility")
	w := newWorld(t)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys := signers{
		"old": {Key: ec, KeyID: "old", Algorithm: string(jose.ES256), Use: "sig"},
		"new": {Key: ed, KeyID: "new", Algorithm: string(jose.EdDSA), Use: "sig"},
	}
	w.verifier = userauth.NewVerifier(keys, issuer, audience)
	f := w.serve()
	content, err := json.Marshal(w.issuer.Claims(w.phone.Leaf, nil))
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range keys {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(key.Algorithm), Key: key}, new(jose.SignerOptions).WithType("at+jwt"))
		if err != nil {
			t.Fatal(err)
		}
		signed, err := signer.Sign(content)
		if err != nil {
			t.Fatal(err)
		}
		token, err := signed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		if who, err := w.callGRPC(f.grpc, w.phone, "Bearer "+token); err != nil || who != "alice" {
			t.Errorf("%s over gRPC: %q, %v", name, who, err)
		}
		if a := w.callHTTP(f.http, "/", "", w.phone, "Bearer "+token); a.status != http.StatusOK {
			t.Errorf("%s over HTTP: %+v", name, a)
		}
	}
}
