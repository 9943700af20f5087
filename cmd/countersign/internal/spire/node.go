package spire

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// nodeLife is how long a node's certificate is good for. It identifies a machine to one SPIRE server that is told to trust it, in a file
// beside it, and is worth nothing anywhere else: a certificate that ran out would only be a morning on which nothing starts. Whoever
// suspects that its key was stolen removes its file and prepares the node again: the server, once it has read its list of authorities anew,
// knows the old one no more.
const nodeLife = 10 * 365 * 24 * time.Hour

// lockTime bounds the wait for a node's directory: what is done under its lock takes milliseconds, so who has it for longer hangs.
const lockTime = 10 * time.Second

// Node is what one node attests with: files in one directory.
type Node struct {
	Name string
	// Authorities are the CAs of all nodes that were prepared in the directory, for the server to trust.
	Authorities string
	// Certificate and Key are the agent's.
	Certificate, Key string
}

// nodeIn returns where a node's files are.
func nodeIn(dir, name string) Node {
	return Node{
		Name: name, Authorities: filepath.Join(dir, "ca.pem"),
		Certificate: filepath.Join(dir, "agent-"+name+".pem"), Key: filepath.Join(dir, "agent-"+name+".key"),
	}
}

// PrepareNode makes what a node attests with where there is none, and reports whether it did. Who calls it twice, or at once, has it once.
//
// The CA's key is used for the one certificate and is nowhere kept: whoever breaks into a node finds nothing there to make another with.
// So each node of a directory has a CA of its own.
func PrepareNode(ctx context.Context, dir, name string) (node Node, made bool, err error) {
	if err := CheckNode(name); err != nil {
		return Node{}, false, fmt.Errorf("--node: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Node{}, false, fmt.Errorf("make a directory for the node: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return Node{}, false, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	node = nodeIn(dir, name)
	// The certificate is written last, so where it is everything is.
	if _, err := os.Stat(node.Certificate); err == nil {
		return node, false, node.check(time.Now())
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Node{}, false, fmt.Errorf("look for the node's certificate: %w", err)
	}
	if err := node.make(time.Now()); err != nil {
		return Node{}, false, fmt.Errorf("prepare node %s: %w", name, err)
	}
	return node, true, nil
}

// lock waits for its turn with a directory, but not for ever. The kernel gives the lock back when its holder dies, however it dies.
func lock(ctx context.Context, path string) (unlock func() error, err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the node's directory: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, lockTime, fmt.Errorf("it was waited for %v; end what has it open", lockTime))
	defer cancel()
	tick := time.NewTicker(askInterval)
	defer tick.Stop()
	for {
		// A flock that blocks could not be interrupted.
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return file.Close, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock the node's directory: %w", err), file.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock the node's directory: another process has %s: %w", path, context.Cause(ctx)), file.Close())
		case <-tick.C:
		}
	}
}

// check says what is wrong with files that are there already.
func (n Node) check(now time.Time) error {
	pair, err := tls.LoadX509KeyPair(n.Certificate, n.Key)
	if err != nil {
		return fmt.Errorf("%s cannot be used (remove it to have another made): %w", n.Certificate, err)
	}
	authorities, err := os.ReadFile(n.Authorities)
	if err != nil {
		return fmt.Errorf("%s cannot be used (remove it to have another made): %w", n.Certificate, err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authorities)
	if got := pair.Leaf.Subject.CommonName; got != n.Name {
		return fmt.Errorf("%s is of node %q and not of %q; remove it to have another made", n.Certificate, got, n.Name)
	}
	options := x509.VerifyOptions{Roots: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	if _, err := pair.Leaf.Verify(options); err != nil {
		return fmt.Errorf("%s is not good for the authorities in %s (remove it to have another made): %w", n.Certificate, n.Authorities, err)
	}
	return nil
}

// make writes the files: the key, the authorities, and in the end the certificate.
func (n Node) make(now time.Time) error {
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	authority, err := sign(&x509.Certificate{
		Subject:  pkix.Name{CommonName: n.authority()},
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}, nil, &key.PublicKey, authorityKey, now)
	if err != nil {
		return err
	}
	leaf, err := sign(&x509.Certificate{
		// Digital signature is what the plugin asks for, since the agent proves that it has the key by signing a challenge.
		Subject: pkix.Name{CommonName: n.Name}, KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}, authority, &key.PublicKey, authorityKey, now)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writeFile(n.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return err
	}
	others, err := n.others()
	if err != nil {
		return err
	}
	// The certificates are public, and the server may run as another user than the agent.
	if err := writeFile(n.Authorities, append(others, encode(authority)...), 0o644); err != nil {
		return err
	}
	return writeFile(n.Certificate, encode(leaf), 0o644)
}

// authority is what a node's CA is called.
func (n Node) authority() string { return "authority of node " + n.Name }

// others are the authorities of the directory's other nodes. One that this node had before is not kept: with it, whoever has the old key could
// attest as the node for years.
func (n Node) others() ([]byte, error) {
	rest, err := os.ReadFile(n.Authorities)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var others []byte
	for len(bytes.TrimSpace(rest)) > 0 {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, fmt.Errorf("%s has something in it that is no certificate; take it out, or remove the file and the agent-*.pem beside it to have all made anew", n.Authorities)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s has a certificate that cannot be read; take it out, or remove the file and the agent-*.pem beside it to have all made anew: %w",
				n.Authorities, err)
		}
		if certificate.Subject.CommonName != n.authority() {
			others = append(others, encode(certificate)...)
		}
	}
	return others, nil
}

// sign makes a certificate; one without a parent is for the signer's own key.
func sign(template, parent *x509.Certificate, public *ecdsa.PublicKey, signer *ecdsa.PrivateKey, now time.Time) (*x509.Certificate, error) {
	const clockSkew = time.Minute
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1)) // above zero (RFC 5280 §4.1.2.2)
	template.NotBefore, template.NotAfter = now.Add(-clockSkew), now.Add(nodeLife)
	if parent == nil {
		parent, public = template, &signer.PublicKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func encode(certificate *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
}
