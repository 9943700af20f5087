package edge

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"

	"github.com/countersign-mesh/countersign/pkg/watchfile"
)

// CertFile is a certificate with its key in two PEM files, read anew when they change. It is safe for concurrent use.
type CertFile struct {
	certPath, keyPath string
	log               *slog.Logger
	current           atomic.Pointer[tls.Certificate]
	first             pair
}

// pair is what the two files hold. They belong together, and are not replaced in one step.
type pair struct{ cert, key string }

// OpenCertFile reads a certificate. It fails when the files hold none, or two that do not fit.
func OpenCertFile(certPath, keyPath string, log *slog.Logger) (*CertFile, error) {
	f := &CertFile{certPath: certPath, keyPath: keyPath, log: log}
	first, err := f.read()
	if err != nil {
		return nil, err
	}
	f.first = first
	if err := f.take(first); err != nil {
		return nil, err
	}
	return f, nil
}

// Certificate returns the certificate; it is the first argument of TLSConfig.
func (f *CertFile) Certificate() (*tls.Certificate, error) { return f.current.Load(), nil }

// Run follows the files until ctx ends; it returns nil then. While what they hold is no certificate with its key, the last that was stays.
func (f *CertFile) Run(ctx context.Context) error {
	content := watchfile.Content[pair]{Path: f.certPath, Read: f.read, Equal: func(a, b pair) bool { return a == b }}
	return watchfile.Watch(ctx, content, f.first, f.log, func(ctx context.Context, look watchfile.Look[pair]) {
		err := look.Err
		if err == nil {
			err = f.take(look.Value)
		}
		if err != nil {
			f.log.WarnContext(ctx, "the certificate of the edge has changed and cannot be used; the last one is", "file", f.certPath, "error", err)
			return
		}
		f.log.InfoContext(ctx, "the edge has a new certificate", "file", f.certPath, "until", f.current.Load().Leaf.NotAfter)
	})
}

func (f *CertFile) read() (pair, error) {
	cert, err := os.ReadFile(f.certPath)
	if err != nil {
		return pair{}, err
	}
	key, err := os.ReadFile(f.keyPath)
	return pair{string(cert), string(key)}, err
}

func (f *CertFile) take(p pair) error {
	cert, err := tls.X509KeyPair([]byte(p.cert), []byte(p.key))
	if err != nil {
		return fmt.Errorf("read %s and %s: %w", f.certPath, f.keyPath, err)
	}
	f.current.Store(&cert)
	return nil
}
