package bank

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// edgeName is the name that customers know the gateway by.
const edgeName = "gateway.bank.test"

// Edge is where customers come in. It is no part of the mesh: its servers have a certificate of a root that has nothing to do with SPIFFE.
type Edge struct {
	// GRPC and REST are where the gateway serves customers, Login is where they log in.
	GRPC, REST, Login string
	// Issuer is the URL that login is known by.
	Issuer string
	// Roots verify the servers.
	Roots *x509.CertPool
}

// edgeFiles are the files of the edge's certificate, below a Home.
type edgeFiles struct{ root, certificate, key string }

func (h *Home) edgeFiles() edgeFiles {
	return edgeFiles{h.Path("edge", "root.pem"), h.Path("edge", "server.pem"), h.Path("edge", "server.key")}
}

// writeEdge makes a root and a certificate for the edge's servers.
func (h *Home) writeEdge(t testing.TB) {
	t.Helper()
	rootKey, key := NewKey(t), NewKey(t)
	begin, end := time.Now().Add(-time.Minute), time.Now().Add(24*time.Hour)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "edge root"}, NotBefore: begin, NotAfter: end,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	root := sign(t, template, template, rootKey, rootKey)
	server := sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: edgeName}, NotBefore: begin, NotAfter: end,
		DNSNames:    []string{edgeName, "login.bank.test", "gateway", "login", "localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		KeyUsage:    x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}, root, key, rootKey)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := h.edgeFiles()
	if err := os.Mkdir(filepath.Dir(files.root), 0o700); err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{
		files.root: PEM(root), files.certificate: PEM(server), files.key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// ReadRoots reads certificates that servers are verified by.
func ReadRoots(t testing.TB, path string) *x509.CertPool {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		t.Fatalf("no certificate in %s", path)
	}
	return roots
}

// Edge returns where customers come in.
func (a *Apart) Edge(t testing.TB) Edge {
	t.Helper()
	return Edge{
		GRPC: a.edge["gateway"], REST: a.edge["rest"], Login: a.edge["login"], Issuer: a.issuer(), Roots: ReadRoots(t, a.edgeFiles().root),
	}
}

func (a *Apart) issuer() string {
	_, port, _ := net.SplitHostPort(a.edge["login"]) // an address of its own making
	return "https://localhost:" + port
}
