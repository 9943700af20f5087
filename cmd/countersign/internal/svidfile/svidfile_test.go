package svidfile_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/svidfile"
)

// material makes an SVID and a bundle; the files do not care who signed.
func material(t testing.TB, serial int64) (*x509svid.SVID, *x509bundle.Bundle) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id := spiffeid.RequireFromString("spiffe://bank.test/operator")
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{Organization: []string{"SPIFFE"}},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{id.URL()}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	bundle := x509bundle.FromX509Authorities(id.TrustDomain(), []*x509.Certificate{cert})
	return &x509svid.SVID{ID: id, Certificates: []*x509.Certificate{cert}, PrivateKey: key}, bundle
}

func TestTheFilesAreTheirOwnersAlone(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "deep", "svid")
	svid, bundle := material(t, 7)
	if err := svidfile.Write(dir, svid, bundle); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v, %v", info.Mode(), err)
	}
	for _, name := range []string{svidfile.SVID, svidfile.Key, svidfile.Bundle} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, svidfile.SVID), filepath.Join(dir, svidfile.Key))
	if err != nil || pair.Leaf.SerialNumber.Int64() != 7 {
		t.Errorf("the pair: %v", err)
	}
	pem, err := os.ReadFile(filepath.Join(dir, svidfile.Bundle))
	if err != nil || !x509.NewCertPool().AppendCertsFromPEM(pem) {
		t.Errorf("the bundle: %v", err)
	}
}

func TestADirectoryThatWasThereKeepsItsMode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o751); err != nil {
		t.Fatal(err)
	}
	svid, bundle := material(t, 1)
	if err := svidfile.Write(dir, svid, bundle); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o751 {
		t.Errorf("the directory: %v, %v", info, err)
	}
	if info, err := os.Stat(filepath.Join(dir, svidfile.Current)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the set in it: %v, %v", info, err)
	}
}

func TestFilesThatWereThereAreReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{svidfile.SVID, ".next-svid.pem", ".next-current"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("left over"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	svid, bundle := material(t, 1)
	if err := svidfile.Write(dir, svid, bundle); err != nil {
		t.Fatal(err)
	}
	if _, err := tls.LoadX509KeyPair(filepath.Join(dir, svidfile.SVID), filepath.Join(dir, svidfile.Key)); err != nil {
		t.Error(err)
	}
}

func TestAReaderNeverGetsAKeyOfAnotherCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var svids []*x509svid.SVID
	var bundle *x509bundle.Bundle
	for serial := range int64(4) {
		svid, b := material(t, serial+1)
		svids, bundle = append(svids, svid), b
	}
	if err := svidfile.Write(dir, svids[0], bundle); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() { readUntil(t, dir, stop) })
	}
	for i := range 300 {
		if err := svidfile.Write(dir, svids[i%len(svids)], bundle); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	readers.Wait()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	sets := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".set-") {
			sets++
		}
	}
	if sets != 2 {
		t.Errorf("%d sets are kept, want the current one and the one before", sets)
	}
}

// readUntil reads as a careful reader does: it opens the current set and reads both files of it.
func readUntil(t *testing.T, dir string, stop <-chan struct{}) {
	t.Helper()
	for {
		select {
		case <-stop:
			return
		default:
		}
		current := filepath.Join(dir, svidfile.Current)
		root, err := os.OpenRoot(current)
		// A reader so slow that two newer sets were written meanwhile finds its set gone, on its way into it or in it: it knows, and reads again.
		if os.IsNotExist(err) {
			if _, err := os.Lstat(current); err != nil {
				t.Errorf("there is no current set: %v", err)
				return
			}
			continue
		}
		if err != nil {
			t.Errorf("open the current set: %v", err)
			return
		}
		chain, chainErr := root.ReadFile(svidfile.SVID)
		key, keyErr := root.ReadFile(svidfile.Key)
		if err := root.Close(); err != nil {
			t.Error(err)
		}
		if os.IsNotExist(chainErr) || os.IsNotExist(keyErr) {
			continue
		}
		if _, err := tls.X509KeyPair(chain, key); err != nil {
			t.Errorf("the pair: %v", err)
			return
		}
	}
}

func TestAnEmptyBundleIsNotWritten(t *testing.T) {
	t.Parallel()
	svid, _ := material(t, 1)
	err := svidfile.Write(t.TempDir(), svid, x509bundle.New(spiffeid.RequireTrustDomainFromString("bank.test")))
	if err == nil || !strings.Contains(err.Error(), "empty") {
		t.Errorf("the error is %v", err)
	}
}
