package edge_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/edge"
)

const day = 24 * time.Hour

// start is some time that is not now: nothing here may ask the clock.
var start = time.Date(2031, 5, 4, 3, 2, 1, 0, time.UTC)

func directory(t *testing.T) edge.Dir {
	t.Helper()
	return edge.Dir(filepath.Join(t.TempDir(), "made", "edge"))
}

func initialize(t *testing.T, d edge.Dir, now time.Time, wantMade bool) {
	t.Helper()
	end, made, err := d.Init(now)
	if err != nil || made != wantMade || end.Sub(now) < 30*day {
		t.Fatalf("at %v: until %v, made %v, %v; want made %v", now, end, made, err, wantMade)
	}
}

func leaf(t *testing.T, d edge.Dir) *x509.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(d.Cert(), d.Key())
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf
}

// verify fails unless the edge's certificate is good for a name.
func verify(t *testing.T, d edge.Dir, c *x509.Certificate, name string, now time.Time) {
	t.Helper()
	roots, err := d.Roots()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: now}); err != nil {
		t.Errorf("as %s: %v", name, err)
	}
}

func TestTheEdgeIsGoodByEachOfItsNames(t *testing.T) {
	t.Parallel()
	d := directory(t)
	initialize(t, d, start, true)
	for _, name := range []string{"localhost", "127.0.0.1", "::1", "gateway", "login", "gateway.bank.test", "login.bank.test"} {
		verify(t, d, leaf(t, d), name, start)
	}
	for path, want := range map[string]os.FileMode{d.Key(): 0o600, d.Root(): 0o644, d.Cert(): 0o644} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want mode %v", path, info, err, want)
		}
	}
	if info, err := os.Stat(string(d)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v, %v", info, err)
	}
}

func TestAGoodCertificateStaysAndALateOneIsRenewed(t *testing.T) {
	t.Parallel()
	d := directory(t)
	initialize(t, d, start, true)
	first := leaf(t, d)
	initialize(t, d, start.Add(334*day), false)
	if !leaf(t, d).Equal(first) {
		t.Error("it was made anew while it was good")
	}
	late := start.Add(336 * day)
	initialize(t, d, late, true)
	second := leaf(t, d)
	if second.Equal(first) || second.SerialNumber.Cmp(first.SerialNumber) == 0 {
		t.Error("it was not made anew")
	}
	// A server that has not read the new one yet still shows the first.
	verify(t, d, first, "localhost", late)
	verify(t, d, second, "localhost", late)
	initialize(t, d, start.Add(1000*day), true)
	if n := certificates(t, d.Root()); n != 1 {
		t.Errorf("authorities that have expired are still there: %d", n)
	}
}

func TestWhatIsBrokenIsMadeAnew(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(*testing.T, edge.Dir){
		"no key":           func(t *testing.T, d edge.Dir) { t.Helper(); remove(t, d.Key()) },
		"no certificate":   func(t *testing.T, d edge.Dir) { t.Helper(); remove(t, d.Cert()) },
		"no authority":     func(t *testing.T, d edge.Dir) { t.Helper(); remove(t, d.Root()) },
		"half of a key":    func(t *testing.T, d edge.Dir) { t.Helper(); overwrite(t, d.Key(), "-----BEGIN") },
		"no PEM":           func(t *testing.T, d edge.Dir) { t.Helper(); overwrite(t, d.Root(), "nothing") },
		"another's key":    func(t *testing.T, d edge.Dir) { t.Helper(); overwrite(t, d.Key(), other(t, edge.Dir.Key)) },
		"another's root":   func(t *testing.T, d edge.Dir) { t.Helper(); overwrite(t, d.Root(), other(t, edge.Dir.Root)) },
		"a key for anyone": func(t *testing.T, d edge.Dir) { t.Helper(); open(t, d.Key()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := directory(t)
			initialize(t, d, start, true)
			damage(t, d)
			initialize(t, d, start, true)
			verify(t, d, leaf(t, d), "localhost", start)
			initialize(t, d, start, false)
		})
	}
}

func TestTheRootIsCopiedWithoutTheKey(t *testing.T) {
	t.Parallel()
	d, to := directory(t), filepath.Join(t.TempDir(), "root.pem")
	if err := d.CopyRoot(to); err == nil {
		t.Error("there was nothing to copy")
	}
	initialize(t, d, start, true)
	if err := d.CopyRoot(to); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(to); err != nil || info.Mode().Perm() != 0o644 || certificates(t, to) != 1 {
		t.Errorf("the copy: %v, %v", info, err)
	}
}

// Whoever trusts the stand-in must not have to trust it for the whole web.
func TestTheAuthorityIsBoundToTheEdgesNamesAndItsKeyIsGone(t *testing.T) {
	t.Parallel()
	d := directory(t)
	initialize(t, d, start, true)
	text, err := os.ReadFile(d.Root())
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !root.IsCA || !root.MaxPathLenZero || !root.PermittedDNSDomainsCritical || len(root.PermittedDNSDomains) != 5 || len(root.PermittedIPRanges) != 2 {
		t.Errorf("the authority may sign more: %v %v", root.PermittedDNSDomains, root.PermittedIPRanges)
	}
	for _, r := range root.PermittedIPRanges {
		if ones, bits := r.Mask.Size(); ones != bits || !r.Contains(net.IPv4(127, 0, 0, 1)) && !r.Contains(net.IPv6loopback) {
			t.Errorf("it may sign for %v", r)
		}
	}
	entries, err := os.ReadDir(string(d))
	if err != nil || len(entries) != 3 {
		t.Errorf("there is more than root.pem, server.pem and server.key: %v, %v", entries, err)
	}
}

func certificates(t *testing.T, path string) (n int) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		n++
	}
	return n
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func overwrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, path string) {
	t.Helper()
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
}

// other is a file of another edge.
func other(t *testing.T, file func(edge.Dir) string) string {
	t.Helper()
	d := directory(t)
	initialize(t, d, start, true)
	text, err := os.ReadFile(file(d))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
