package device

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
)

// Server says where an authorization server is and by which authorities its certificate is verified.
type Server struct {
	// Issuer is its URL: https, without a path.
	Issuer string
	// Roots verify its certificate; nil is the system's.
	Roots *x509.CertPool
	// Address is the host and port to connect to instead of the issuer's, as curl's --connect-to. The name in the certificate is the issuer's all
	// the same. Empty: the issuer's.
	Address string
}

// Device is a key, the certificate for it, and the client_id in that. It does not change and is safe for concurrent use. The zero value is
// not usable; see Enrol and Load.
type Device struct {
	// credential is behind a function, into which package fmt does not look, whatever the verb and whatever the device is a part of.
	credential func() *tls.Certificate
}

// The files that Save writes.
const (
	certFile = "device.pem"
	keyFile  = "device.key"
)

// Enrol makes a key, which never leaves this process but by Save, and asks for a certificate for it. It uses up the one-time code.
func Enrol(ctx context.Context, s Server, username, password, otp, name string) (*Device, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a device's key: %w", err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("ask for a device's certificate: %w", err)
	}
	body, err := json.Marshal(map[string]string{
		"username": username, "password": password, "otp": otp, "device_name": name,
		"csr": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})),
	})
	if err != nil {
		return nil, fmt.Errorf("ask for a device's certificate: %w", err)
	}
	c, err := newClient(s, nil)
	if err != nil {
		return nil, err
	}
	defer c.close()
	var answer struct {
		ClientID string `json:"client_id"`
		Chain    string `json:"certificate_chain"`
	}
	if err := c.post(ctx, "/enrol", call{contentType: "application/json", body: body}, http.StatusCreated, &answer); err != nil {
		return nil, fmt.Errorf("enrol a device: %w", err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("enrol a device: %w", err)
	}
	d, err := parse([]byte(answer.Chain), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}))
	if err != nil {
		return nil, fmt.Errorf("enrol a device: %w", err)
	}
	if d.ID() != answer.ClientID {
		return nil, errors.New("enrol a device: the certificate is of another client_id")
	}
	return d, nil
}

// parse returns a device of its certificate, which may have a chain after it, and its key.
func parse(chain, key []byte) (*Device, error) {
	credential, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, err
	}
	if credential.Leaf.Subject.CommonName == "" {
		return nil, errors.New("the certificate names no client_id")
	}
	credential.Certificate = credential.Certificate[:1] // servers have the authority's
	return &Device{credential: func() *tls.Certificate { return &credential }}, nil
}

// Load reads a device that Save has written.
func Load(dir string) (*Device, error) {
	chain, err := os.ReadFile(filepath.Join(dir, certFile))
	if err != nil {
		return nil, fmt.Errorf("load a device: %w", err)
	}
	key, err := os.ReadFile(filepath.Join(dir, keyFile))
	if err != nil {
		return nil, fmt.Errorf("load a device: %w", err)
	}
	d, err := parse(chain, key)
	if err != nil {
		return nil, fmt.Errorf("load a device from %s: %w", dir, err)
	}
	return d, nil
}

// Save writes the device into a directory, which is made if it is not there, for the owner alone to read.
func (d *Device) Save(dir string) error {
	key, err := x509.MarshalPKCS8PrivateKey(d.credential().PrivateKey)
	if err != nil {
		return fmt.Errorf("save a device: %w", err)
	}
	if err := writeFile(dir, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})); err != nil {
		return fmt.Errorf("save a device: %w", err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.credential().Leaf.Raw})
	if err := writeFile(dir, certFile, cert); err != nil {
		return fmt.Errorf("save a device: %w", err)
	}
	return nil
}

// writeFile replaces a file of a directory as a whole, so that whoever reads it meanwhile has the old or the new one. Only its owner can read it.
func writeFile(dir, name string, content []byte) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+name+"-*") // for its owner alone
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, name))
}

// String names the device.
func (d *Device) String() string { return "device " + d.ID() }

// ID returns the device's client_id.
func (d *Device) ID() string { return d.credential().Leaf.Subject.CommonName }

// Certificate returns the device's certificate.
func (d *Device) Certificate() *x509.Certificate { return d.credential().Leaf }

// TLS returns what to connect to the bank's edge with: TLS 1.3, the device's certificate, and a server that roots (nil: the system's) say is
// serverName.
func (d *Device) TLS(roots *x509.CertPool, serverName string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: serverName, Certificates: []tls.Certificate{*d.credential()}}
}
