package compose

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

// testDemo plays the whole story where a person would, in the operator's container, with the actors in theirs.
func testDemo(t *testing.T, p *project) {
	bank.StoryTold(t, p.run(t, "exec", "--no-TTY", "operator", "countersign", "demo"))
}

// testCall makes a call from a container that is there for this call alone, as whoever has no shell in `operator` would.
func testCall(t *testing.T, p *project) {
	out := p.run(t, "run", "--rm", "--no-deps", "--no-TTY", "operator", "call", "ledger", "CheckTrialBalance")
	if !strings.Contains(out, `"balanced": true`) {
		t.Errorf("want the books in balance, got\n%s", out)
	}
	var trial ledgerv1.CheckTrialBalanceResponse
	if err := p.call(t.Context(), "ledger", "CheckTrialBalance", &ledgerv1.CheckTrialBalanceRequest{}, &trial); err != nil {
		t.Fatal(err)
	}
	if !trial.GetBalanced() {
		t.Errorf("want the books in balance, got %v", &trial)
	}
}

// testGrpcurl uses grpcurl as it comes from outside of the containers: it verifies the gateway by its DNS name and its certificate by the edge's root, and
// presents a device's certificate and the token of a session.
func testGrpcurl(t *testing.T, p *project) {
	grpcurl, err := bank.Grpcurl(t.Context(), p.source, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	phone := p.phones(t, "from-outside")[0]
	dir := phone.Files(t)
	token, err := phone.Session.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root.pem")
	docker(t, "cp", p.container(t, "operator")+":/edge-root/root.pem", root)
	address := p.doors[doorGRPC]
	run := func(authority string, args ...string) (string, error) {
		all := append([]string{
			"-cacert", root, "-cert", filepath.Join(dir, "device.pem"), "-key", filepath.Join(dir, "device.key"), "-H", "authorization: Bearer " + token,
			"-import-path", filepath.Join(p.source, "proto"), "-import-path", filepath.Join(p.source, "proto", ".imports"),
			"-proto", "bank/mobile/v1/mobile.proto", "-authority", authority,
		}, args...)
		return try(t.Context(), nil, grpcurl, all...)
	}
	out, err := run("gateway.bank.test", address, "bank.mobile.v1.MobileBankService/ListAccounts")
	if err != nil || strings.TrimSpace(out) != "{}" {
		t.Errorf("grpcurl as the phone: %v\n%s", err, out)
	}
	if out, err := run("localhost", address, "bank.mobile.v1.MobileBankService/ListAccounts"); err != nil {
		t.Errorf("grpcurl that takes the gateway for this machine, which it is published on: %v\n%s", err, out)
	}
	if out, err := run("elsewhere", address, "bank.mobile.v1.MobileBankService/ListAccounts"); err == nil {
		t.Errorf("grpcurl took the gateway for another host:\n%s", out)
	}
	if out, err := try(t.Context(), nil, grpcurl, "-cacert", root, "-authority", "gateway.bank.test", address, "list"); err == nil {
		t.Errorf("grpcurl without a device's certificate was let in:\n%s", out)
	}
}
