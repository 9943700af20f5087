package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
)

// signingRequest is one of a key, which may be nil for a new one.
func signingRequest(t *testing.T, key crypto.Signer, template *x509.CertificateRequest) string {
	t.Helper()
	if key == nil {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	if template == nil {
		template = &x509.CertificateRequest{}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func (w *world) enrolWith(t *testing.T, changes map[string]string) answer {
	t.Helper()
	e := map[string]string{"username": "alice", "password": testPassword, "device_name": "phone"}
	maps.Copy(e, changes)
	if e["csr"] == "" {
		e["csr"] = signingRequest(t, nil, nil)
	}
	body, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return w.send(t, nil, request(t, http.MethodPost, "/enrol", "application/json", string(body)))
}

func TestKeysThatAreNotToBeCertified(t *testing.T) {
	t.Parallel()
	w := newWorld(t, databasetest.SQLite(t))
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	old, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	forged := signingRequest(t, nil, nil)
	block, _ := pem.Decode([]byte(forged))
	block.Bytes[len(block.Bytes)-1] ^= 1
	forged = string(pem.EncodeToMemory(block))
	code := w.otp(t)
	for name, csr := range map[string]string{
		"RSA": signingRequest(t, weak, nil), "P-224": signingRequest(t, old, nil), "a signature that is not the key's": forged,
		"two requests": signingRequest(t, nil, nil) + signingRequest(t, nil, nil), "no request": "x", "a certificate": strings.ReplaceAll(signingRequest(t, nil, nil), " REQUEST", ""),
	} {
		want(t, name, w.enrolWith(t, map[string]string{"csr": csr, "otp": code}), http.StatusBadRequest, "invalid_request")
	}
	want(t, "the code, which was not used up", w.enrolWith(t, map[string]string{"otp": code}), http.StatusCreated, "")
}

func TestACertificateSaysWhatTheAuthoritySays(t *testing.T) {
	t.Parallel()
	w := newWorld(t, databasetest.SQLite(t))
	a := w.enrolWith(t, map[string]string{"otp": w.otp(t), "csr": signingRequest(t, nil, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "dev-aaaaaaaaaaaaaaaaaaaaaaaaaa", Organization: []string{"Bank"}}, DNSNames: []string{"login.bank.test"},
		ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 0x03, 0x01, 0x01, 0xff}}}, // basicConstraints: CA
	})})
	want(t, "enrolling", a, http.StatusCreated, "")
	block, rest := pem.Decode([]byte(a.get("certificate_chain")))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if cert.IsCA || cert.Subject.CommonName != a.get("client_id") || len(cert.Subject.Organization) != 0 || len(cert.DNSNames) != 0 {
		t.Errorf("the certificate is a CA's: %t, of %s, for %v", cert.IsCA, cert.Subject, cert.DNSNames)
	}
	if !slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || cert.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("usages %v %v", cert.ExtKeyUsage, cert.KeyUsage)
	}
	if life := cert.NotAfter.Sub(w.clock.Now()); life < 89*24*time.Hour || life > 90*24*time.Hour {
		t.Errorf("it lives for %v", life)
	}
	if root, _ := pem.Decode(rest); root == nil {
		t.Error("the authority's certificate is missing")
	}
}

func TestEnrollingTakesAllThatProvesTheCustomer(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		w := newWorld(t, dsn)
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		csr := signingRequest(t, key, nil)
		code := w.otp(t)
		want(t, "no one-time code", w.enrolWith(t, nil), http.StatusBadRequest, "invalid_grant")
		want(t, "a wrong password", w.enrolWith(t, map[string]string{"otp": code, "password": "wrong"}), http.StatusBadRequest, "invalid_grant")
		want(t, "a name with a line break", w.enrolWith(t, map[string]string{"otp": code, "device_name": "a\nb"}), http.StatusBadRequest, "invalid_request")
		want(t, "all of it", w.enrolWith(t, map[string]string{"otp": code, "csr": csr}), http.StatusCreated, "")
		want(t, "a code that was used", w.enrolWith(t, map[string]string{"otp": code}), http.StatusBadRequest, "invalid_grant")
		code = w.otp(t)
		want(t, "a key of another device", w.enrolWith(t, map[string]string{"otp": code, "csr": csr}), http.StatusBadRequest, "invalid_request")
		want(t, "its code, of which nothing is left behind", w.enrolWith(t, map[string]string{"otp": code}), http.StatusCreated, "")
	})
}

func TestACustomerHasSoManyDevices(t *testing.T) {
	t.Parallel()
	w := newWorld(t, databasetest.SQLite(t))
	first := w.enrol(t)
	for range 19 {
		w.enrol(t)
	}
	want(t, "one more", w.enrolWith(t, map[string]string{"otp": w.otp(t)}), http.StatusBadRequest, "invalid_request")
	if _, err := w.customers(t).RevokeDevice(t.Context(), &loginv1.RevokeDeviceRequest{DeviceId: first.ID()}); err != nil {
		t.Fatal(err)
	}
	w.enrol(t)
	devices, err := w.customers(t).ListDevices(t.Context(), &loginv1.ListDevicesRequest{CustomerId: "alice"})
	if err != nil || len(devices.GetDevices()) != 20 {
		t.Errorf("%d devices, %v", len(devices.GetDevices()), err)
	}
	if w.revoked(t)["certificate:"+devices.GetDevices()[0].GetCertificateSerial()] != 0 {
		t.Error("a good device is revoked")
	}
	want(t, "the device that made room", w.post(t, first, "/authorize-challenge", challenge(first, nil)), http.StatusUnauthorized, "invalid_client")
}

func TestAOneTimeCodeIsGoodForOneOfManyAtOnce(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		w := newWorld(t, dsn)
		code := w.otp(t)
		answers := make([]answer, 6)
		var all sync.WaitGroup
		for i := range answers {
			all.Go(func() { answers[i] = w.enrolWith(t, map[string]string{"otp": code}) })
		}
		all.Wait()
		enrolled := 0
		for _, a := range answers {
			if a.status == http.StatusCreated {
				enrolled++
				continue
			}
			want(t, "one that came later", a, http.StatusBadRequest, "invalid_grant")
		}
		if enrolled != 1 {
			t.Errorf("%d devices are enrolled with one code", enrolled)
		}
	})
}
