package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
)

// TestSPIREUnderACompanysCA runs the mesh on a SPIRE server that signs under the CA of a company, with RSA keys all the way down: an SVID comes with its
// server's certificate between it and the root, which knows nothing of SPIFFE. A payment takes its whole way.
func TestSPIREUnderACompanysCA(t *testing.T) {
	bin := bank.SPIREBin(t)
	home := dist.NewHome(t)
	mesh := home.Apart(t)
	spire := mesh.OnSPIRE(t, bin, 20*time.Second, time.Hour)
	certificate, key := companyCA(t)
	mesh.Edit(t, spire.Config(bank.SPIREServer), bank.Replace(t, "\nplugins {\n", fmt.Sprintf(`
plugins {
    UpstreamAuthority "disk" {
        plugin_data {
            cert_file_path = %q
            key_file_path = %q
        }
    }
`, certificate, key)))
	mesh.Edit(t, spire.Config(bank.SPIREServer), bank.Replace(t, "\nserver {\n", "\nserver {\n    ca_key_type = \"rsa-2048\"\n"))
	mesh.Edit(t, spire.Config(bank.SPIREAgent), bank.Replace(t, "\nagent {\n", "\nagent {\n    workload_x509_svid_key_type = \"rsa-2048\"\n"))
	spire.StartAll(t)
	operator := mesh.Identity(t, "operator")
	if n := len(operator.Certificate.Certificate); n != 2 {
		t.Errorf("the chain has %d certificates, want the SVID and its server's", n)
	}
	if _, ok := operator.Certificate.PrivateKey.(*rsa.PrivateKey); !ok {
		t.Errorf("the key is a %T", operator.Certificate.PrivateKey)
	}
	calling, stop := payOn(t, mesh)
	untilItFails(t, calling, 15*time.Second) // the SVIDs are renewed twice
	stop()
}

// companyCA makes the CA of a company, and returns the files of its certificate and its key.
func companyCA(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"A Company"}, CommonName: "Root CA 1"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certificate, key = filepath.Join(dir, "root.pem"), filepath.Join(dir, "root.key")
	for path, block := range map[string]*pem.Block{certificate: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificate, key
}
