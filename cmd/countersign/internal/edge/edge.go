// Package edge makes the certificate that the bank's edge, the gateway and login, shows its customers. It stands in for one that an authority of the
// public web would issue: customers are no workloads of the mesh, and know none of its authorities.
package edge

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
)

const (
	// lifetime is how long a certificate lives, root and leaf alike.
	lifetime = 365 * 24 * time.Hour
	// renewal is how long before its end it is made anew.
	renewal = 30 * 24 * time.Hour
	// backdate is for clocks that are behind.
	backdate = 5 * time.Minute
)

// Dir is a directory with the edge's certificate. The zero value is the current directory.
type Dir string

// Root is the file that customers verify the edge by: the authorities that have not expired, the newest first.
func (d Dir) Root() string { return filepath.Join(string(d), "root.pem") }

// Cert is the file with the certificate that the edge shows.
func (d Dir) Cert() string { return filepath.Join(string(d), "server.pem") }

// Key is the file with its key.
func (d Dir) Key() string { return filepath.Join(string(d), "server.key") }

// names are what customers may call the edge.
func names() ([]string, []net.IP) {
	return []string{"localhost", "gateway", "login", "gateway.bank.test", "login.bank.test"}, []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
}

// Init sees to a certificate in the directory, which is made when it is missing. One that is good, and is so for 30 days yet, is left as it is;
// its end is returned, and whether it was made now. Whoever trusts the authority of before trusts it until its end, but has to read Root again for
// the new one.
func (d Dir) Init(now time.Time) (end time.Time, made bool, err error) {
	end, err = d.check(now)
	if err == nil {
		return end, false, nil
	}
	if !errors.Is(err, errStale) {
		return time.Time{}, false, err
	}
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return time.Time{}, false, fmt.Errorf("make a directory for the edge's certificate: %w", err)
	}
	end, err = d.renew(now)
	return end, err == nil, err
}

// CopyRoot writes Root to another file, for those who are not to see the key beside it.
func (d Dir) CopyRoot(path string) error {
	text, err := os.ReadFile(d.Root())
	if err == nil {
		err = write(path, text, public)
	}
	if err != nil {
		return fmt.Errorf("copy by whom the edge is verified: %w", err)
	}
	return nil
}

// Roots are the authorities that customers verify the edge by.
func (d Dir) Roots() (*x509.CertPool, error) { return ReadRoots(d.Root()) }

// ReadRoots reads the authorities in a file.
func ReadRoots(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read by whom the edge is verified: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("read by whom the edge is verified: there is no certificate in %s", path)
	}
	return pool, nil
}

// errStale means that there is no certificate, or none that will do.
var errStale = errors.New("there is no good certificate")

// check returns the end of the certificate that is there, and errStale when it has to be made anew. Every other error is that of a directory which
// cannot be read, where nothing may be overwritten.
func (d Dir) check(now time.Time) (time.Time, error) {
	pair, err := tls.LoadX509KeyPair(d.Cert(), d.Key())
	if err != nil {
		return time.Time{}, stale(err)
	}
	info, err := os.Stat(d.Key())
	if err != nil {
		return time.Time{}, stale(err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return time.Time{}, errStale // others may have read it
	}
	roots, err := d.Roots()
	if err != nil {
		return time.Time{}, stale(err)
	}
	hosts, addresses := names()
	for _, ip := range addresses {
		hosts = append(hosts, ip.String())
	}
	for _, host := range hosts {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: roots, CurrentTime: now.Add(renewal)}); err != nil {
			return time.Time{}, errStale
		}
	}
	return pair.Leaf.NotAfter, nil
}

// stale tells what cannot be used from what cannot be seen.
func stale(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("read the edge's certificate: %w", err)
	}
	return errStale
}

// renew writes another certificate, of another authority. The key is written last but one and the root first: a customer that sees the new
// certificate can verify it, and a server that reads a certificate beside the other's key keeps what it had.
func (d Dir) renew(now time.Time) (time.Time, error) {
	made, err := issue(now)
	if err != nil {
		return time.Time{}, err
	}
	roots := append(encode(made.root), d.unexpired(now)...)
	for _, file := range []struct {
		path    string
		content []byte
		mode    os.FileMode
	}{
		{d.Root(), roots, public},
		{d.Key(), made.key, 0o600},
		{d.Cert(), encode(made.leaf), public},
	} {
		if err := write(file.path, file.content, file.mode); err != nil {
			return time.Time{}, fmt.Errorf("write the edge's certificate: %w", err)
		}
	}
	return made.end, nil
}

// public is the mode of what everybody may read.
const public = 0o644

// write replaces a file; no reader sees half of it.
func write(path string, content []byte, mode os.FileMode) error {
	if err := rundir.WriteFile(path, content); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// unexpired are the authorities of before that somebody may still be shown a certificate of.
func (d Dir) unexpired(now time.Time) []byte {
	text, err := os.ReadFile(d.Root())
	if err != nil {
		return nil // there was none
	}
	var kept bytes.Buffer
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && now.Before(cert.NotAfter) {
			kept.Write(pem.EncodeToMemory(block))
		}
	}
	return kept.Bytes()
}

func encode(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
