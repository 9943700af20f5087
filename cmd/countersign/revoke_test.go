package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/identity"
)

// ATTACKS 37: a peer that is revoked while it is connected.
func TestRevokeCutsThePeerAtEveryService(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		// flag returns the flag that names risk, or something of risk's.
		flag  func(t *testing.T, b *bank) (flag, value string)
		names string // how the output names it
		entry string // what is in the file then
	}{
		"by its SPIFFE ID": {
			func(*testing.T, *bank) (string, string) { return "--id", "/risk" },
			"spiffe://bank.test/risk", "  - id: /risk\n    why: was broken into\n",
		},
		"by its SVID's serial number": {
			func(t *testing.T, b *bank) (string, string) {
				return "--serial", colons(b.Identity(t, "/risk").Status().Serial)
			},
			"the SVID with the serial number VALUE", "  - serial: \"VALUE\"\n    why: was broken into\n",
		},
		"by its authority": {
			func(t *testing.T, b *bank) (string, string) {
				old := b.CA().SVID(t, "/risk")
				authority := identity.AuthorityOf(b.CA().Bundle().X509Authorities()[0])
				b.CA().NewRoot(t)
				for _, path := range []string{"/operator", "/ledger", "/audit", "/payments"} {
					b.Rotate(t, path)
				}
				b.API(t, "/risk").Grant(t, old, b.CA().Bundle())
				serial := fmt.Sprintf("%x", old.Certificates[0].SerialNumber)
				eventually(t, "risk knows the new authority, and has an SVID of the old one", func() bool { return b.Identity(t, "/risk").Status().Serial == serial })
				return "--authority", authority
			},
			"the authority VALUE", "  - authority: \"VALUE\"\n    why: was broken into\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBank(t, "ledger", "audit")
			b.Identity(t, "/risk")
			b.Identity(t, "/payments")
			flag, value := test.flag(t, b)
			calls := []func() error{b.connect(t, "/risk", "ledger"), b.connect(t, "/risk", "audit")}
			good := b.connect(t, "/payments", "ledger")
			before := b.text(t)
			out, err := b.countersign(t, "revoke", flag, value, "--why", "was broken into")
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			plain := value
			if flag == "--serial" {
				plain = b.Identity(t, "/risk").Status().Serial
			}
			if after := b.text(t); after != before+"\nrevoked:\n"+strings.ReplaceAll(test.entry, "VALUE", plain) {
				t.Errorf("the file is now\n%s", after)
			}
			for _, want := range []string{
				`^bank\.yaml:` + strconv.Itoa(strings.Count(before, "\n")+3) + ` revokes ` + strings.ReplaceAll(regexp.QuoteMeta(test.names), "VALUE", plain) + `\.`,
				`In force at 2 of 2 services, policy [0-9a-f]{16}, after \d+ ms at the latest\.`,
				`Connections that were cut: 2\n`,
				`\n  ledger +spiffe://bank\.test/risk +inbound +[0-9a-f]+ +127\.0\.0\.1:\d+ +revoked +\d+ ms\n`,
				`\n  audit +spiffe://bank\.test/risk +inbound `,
			} {
				if !regexp.MustCompile(want).MatchString(out) {
					t.Errorf("nothing in it matches %s:\n%s", want, out)
				}
			}
			if strings.Contains(out, "payments") {
				t.Errorf("who is good was cut:\n%s", out)
			}
			for _, call := range calls {
				if err := call(); status.Code(err) != codes.Unavailable && status.Code(err) != codes.Unauthenticated {
					t.Errorf("risk calls again: %v", err)
				}
			}
			if err := good(); status.Code(err) != codes.PermissionDenied { // for want of a rule, as before
				t.Errorf("payments calls again: %v", err)
			}
			if peers, err := b.countersign(t, "peers", "ledger"); err != nil || strings.Contains(peers, "/risk") || !strings.Contains(peers, "/payments") {
				t.Errorf("the peers of the ledger, %v:\n%s", err, peers)
			}
		})
	}
}

// colons writes a hexadecimal number as openssl does.
func colons(hex string) string {
	if len(hex)%2 == 1 {
		hex = "0" + hex
	}
	var pairs []string
	for i := 0; i < len(hex); i += 2 {
		pairs = append(pairs, strings.ToUpper(hex[i:i+2]))
	}
	return strings.Join(pairs, ":")
}

func TestRevokeOfSomebodyWhoIsNotConnectedCutsNothing(t *testing.T) {
	t.Parallel()
	b := newBank(t, "ledger")
	out, err := b.countersign(t, "revoke", "--id=spiffe://partner.test/reader")
	if err != nil || !strings.Contains(out, "In force at 1 of 1 services") || !strings.Contains(out, "No connection was cut") {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestRevokeOfWhatIsRevokedAlreadyChangesNothing(t *testing.T) {
	t.Parallel()
	b := newBank(t, "ledger")
	if out, err := b.countersign(t, "revoke", "--id=/risk"); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	before := b.text(t)
	out, err := b.countersign(t, "revoke", "--id=spiffe://bank.test/risk", "--why=again")
	if err != nil || !regexp.MustCompile(`^bank\.yaml:\d+ revokes spiffe://bank\.test/risk already; nothing was changed\.\n$`).MatchString(out) {
		t.Errorf("%v:\n%s", err, out)
	}
	if b.text(t) != before {
		t.Error("the file was changed")
	}
}

func TestRevokeNamesTheServicesThatDoNotHeedIt(t *testing.T) {
	t.Parallel()
	b := newBank(t, "ledger")
	b.add(t, "audit", b.serve(t, "audit", false)) // its policy stays as it is
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.add(t, "payments", gone.Addr().String())
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := authz.Open(b.policy)
	if err != nil {
		t.Fatal(err)
	}
	b.Identity(t, "/risk")
	b.connect(t, "/risk", "ledger")
	out, err := b.countersign(t, "revoke", "--id=/risk")
	if !errors.Is(err, errNotHeeded) || exitCode(err) != 1 {
		t.Fatalf("the error is %v:\n%s", err, out)
	}
	for _, want := range []string{"audit: it still has the policy " + file.Policy().Version() + " in force", "payments: UNAVAILABLE: "} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "ledger: ") || !strings.Contains(out, "In force at 1 of 3 services") || !strings.Contains(out, "  ledger ") {
		t.Errorf("the ledger heeds it: %v\n%s", err, out)
	}
}

func TestRevokeWithoutAMeshWritesTheFileThatIsNamed(t *testing.T) {
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", "")
	path := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(path, []byte("trust_domain: bank.test\nservices: {a.v1.A: {methods: {Get: {}}}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := countersign(t, "revoke", "--id=/risk", "--policy", path)
	if err != nil || !strings.Contains(out, "p.yaml:5 revokes spiffe://bank.test/risk.\nNo service was asked: no mesh runs in ") {
		t.Errorf("%v:\n%s", err, out)
	}
	if data, err := os.ReadFile(path); err != nil || !strings.HasSuffix(string(data), "\nrevoked:\n  - id: /risk\n") {
		t.Errorf("the file is %q, %v", data, err)
	}
	if _, err := countersign(t, "revoke", "--id=/risk", "--policy", path+".gone"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestRevokeInAnotherFileThanTheMeshesAsksNobody(t *testing.T) {
	t.Parallel()
	b := newBank(t, "ledger")
	before := b.text(t)
	path := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := b.countersign(t, "revoke", "--id=/risk", "--policy", path)
	if err != nil || !strings.Contains(out, "No service was asked: the mesh in "+b.dir.String()+" reads another file, "+b.policy) || b.text(t) != before {
		t.Errorf("%v:\n%s", err, out)
	}
	link := filepath.Join(t.TempDir(), "link.yaml")
	if err := os.Symlink(b.policy, link); err != nil {
		t.Fatal(err)
	}
	out, err = b.countersign(t, "revoke", "--id=/risk", "--policy", link)
	if err != nil || !strings.Contains(out, "In force at 1 of 1 services") || b.text(t) == before {
		t.Errorf("by a link to the mesh's own: %v:\n%s", err, out)
	}
}

// ATTACKS 37: who may read the policy file may lock it, and the workload that is to be revoked may read it.
func TestRevokeIsNotHeldOffByALock(t *testing.T) {
	t.Parallel()
	b := newBank(t, "ledger")
	file, err := os.Open(b.policy)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	out, err := b.countersign(t, "revoke", "--id=/risk")
	if err != nil || !strings.Contains(b.text(t), "- id: /risk\n") || !strings.Contains(out, "\nAnother process keeps the file locked.") {
		t.Errorf("%v:\n%s", err, out)
	}
	if out, err := b.countersign(t, "revoke", "--id=/audit"); err != nil || strings.Contains(out, "locked") {
		t.Errorf("the file that took its place, %v:\n%s", err, out)
	}
}
