package main

import (
	"regexp"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/pkg/identity"
)

func TestPeersListsTheLiveConnectionsOfAService(t *testing.T) {
	t.Parallel()
	b := newBank(t, "ledger", "audit")
	again := b.connect(t, "/payments", "ledger")
	if err := again(); err == nil {
		t.Error("payments may look after the ledger")
	}
	b.connect(t, "/ledger", "audit")
	serial := b.Identity(t, "/payments").Status().Serial
	authority := identity.AuthorityOf(b.CA().Bundle().X509Authorities()[0]) // whole: revoke --authority takes it as it is
	for name, args := range map[string][]string{
		"by its name":    {"peers", "ledger"},
		"by its address": {"peers", "--expect=/ledger", b.address(t, "ledger")},
	} {
		out, err := b.countersign(t, args...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, want := range []string{
			`PEER +DIRECTION +SERIAL +REMOTE ADDRESS +AGE +EXPIRES IN +CALLS +AUTHORITY\n`,
			`spiffe://bank\.test/payments +inbound +` + serial + ` +127\.0\.0\.1:\d+ +\d+ s +(59 min \d+ s|1 h 0 min) +2 +` + authority + `\n`,
			`spiffe://bank\.test/audit +outbound +[0-9a-f]+ +` + regexp.QuoteMeta(b.address(t, "audit")) + ` .* 1 +` + authority + `\n`,
			`spiffe://bank\.test/operator +inbound .* 1 +` + authority + `\n`,
		} {
			if !regexp.MustCompile(want).MatchString(out) {
				t.Errorf("%s: nothing in it matches %s:\n%s", name, want, out)
			}
		}
	}
}

// ATTACKS 44: admin is under the policy.
func TestPeersIsForTheOperatorAlone(t *testing.T) {
	t.Parallel()
	b := newBank(t, "ledger")
	b.Identity(t, "/payments")
	_, err := b.countersign(t, "peers", "ledger", "--socket", b.API(t, "/payments").Addr())
	if err == nil || !strings.Contains(err.Error(), "PERMISSION_DENIED") || !strings.Contains(err.Error(), "countersign audit show ") {
		t.Errorf("the error is %v", err)
	}
}

// ATTACKS 18: another service answers.
func TestPeersRefusesAnotherServer(t *testing.T) {
	t.Parallel()
	b := newBank(t, "ledger")
	_, err := b.countersign(t, "peers", "--expect=/audit", b.address(t, "ledger"))
	if err == nil || !strings.Contains(err.Error(), "expected the server spiffe://bank.test/audit, got spiffe://bank.test/ledger") {
		t.Errorf("the error is %v", err)
	}
}
