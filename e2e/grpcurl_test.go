package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
)

// testGrpcurl uses grpcurl as it comes, as a person does who has read the README: it verifies the server by its DNS name and
// presents the operator's SVID.
func testGrpcurl(t *testing.T, mesh *bank.Mesh) {
	grpcurl, err := dist.Grpcurl(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "svid")
	if out, code := mesh.CLI(t, "svid", "write", "--dir="+dir); code != 0 {
		t.Fatalf("countersign svid write: exit code %d:\n%s", code, out)
	}
	for _, name := range []string{"svid.pem", "key.pem", "bundle.pem"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", name, info.Mode().Perm())
		}
	}
	run := func(args ...string) (string, error) {
		args = append([]string{
			"-cacert", filepath.Join(dir, "bundle.pem"), "-cert", filepath.Join(dir, "svid.pem"), "-key", filepath.Join(dir, "key.pem"),
		}, args...)
		out, err := exec.CommandContext(t.Context(), grpcurl, args...).CombinedOutput()
		return string(out), err
	}
	address := "localhost:" + port(t, mesh.Program(t, "ledger").Address)
	if out, err := run(address, "list"); err != nil || !strings.Contains(out, "bank.ledger.v1.LedgerService\n") {
		t.Errorf("grpcurl list: %v\n%s", err, out)
	}
	if out, err := run(address, "bank.ledger.v1.LedgerService/CheckTrialBalance"); err != nil || !strings.Contains(out, `"balanced": true`) {
		t.Errorf("grpcurl on a method that the operator may call: %v\n%s", err, out)
	}
	out, err := run("-d", `{"transfer_id": "not-the-operators"}`, address, "bank.ledger.v1.LedgerService/PostTransfer")
	if err == nil || !strings.Contains(out, "Code: PermissionDenied") || !strings.Contains(out, "decision_id") {
		t.Errorf("grpcurl on a method that the operator may not call: %v\n%s", err, out)
	}
	if out, err := run("-authority", "elsewhere", address, "list"); err == nil {
		t.Errorf("grpcurl took the ledger for another host:\n%s", out)
	}
}
