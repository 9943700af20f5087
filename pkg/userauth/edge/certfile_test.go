package edge_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/pkg/userauth/edge"
	"github.com/countersign-mesh/countersign/pkg/userauth/userauthtest"
)

// write writes a certificate's files, the key last.
func write(t *testing.T, dir string, cert tls.Certificate) (certPath, keyPath string) {
	t.Helper()
	certPath, keyPath = filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key")
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, certPath, "CERTIFICATE", cert.Certificate[0])
	writePEM(t, keyPath, "PRIVATE KEY", key)
	return certPath, keyPath
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCertFile(t *testing.T) {
	t.Parallel()
	a, dir := userauthtest.NewAuthority(t), t.TempDir()
	first, second, third := a.Server(t), a.Server(t), a.Server(t)
	f, err := edge.OpenCertFile(filepath.Join(dir, "none.pem"), filepath.Join(dir, "none.key"), slog.New(slog.DiscardHandler))
	if err == nil {
		t.Fatalf("there is no file, and it is %v", f)
	}
	certPath, keyPath := write(t, dir, first)
	f, err = edge.OpenCertFile(certPath, keyPath, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = f.Run(ctx) })
	defer running.Wait()
	defer stop()
	write(t, dir, second)
	become(t, f, second)
	writePEM(t, certPath, "CERTIFICATE", third.Certificate[0]) // with the key of the second
	for range 30 {
		if cert, err := f.Certificate(); err != nil || !cert.Leaf.Equal(second.Leaf) {
			t.Fatalf("a certificate without its key is used: %v", err)
		}
		<-time.After(10 * time.Millisecond)
	}
	write(t, dir, third)
	become(t, f, third)
	if _, err := edge.OpenCertFile(keyPath, certPath, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("the files may be given the other way round")
	}
}

// become waits until a certificate is in use.
func become(t *testing.T, f *edge.CertFile, want tls.Certificate) {
	t.Helper()
	for began := time.Now(); time.Since(began) < 5*time.Second; {
		if cert, err := f.Certificate(); err == nil && cert.Leaf.Equal(want.Leaf) {
			return
		}
		<-time.After(5 * time.Millisecond)
	}
	t.Fatal("the new certificate is not in use")
}
