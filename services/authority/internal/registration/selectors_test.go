package registration

import (
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const containers = `trust_domain: bank.test
entries:
  - {spiffe_id: /payments, selectors: ['socket:payments']}
  - {spiffe_id: /ledger, selectors: ['socket:ledger', 'unix:uid:65532']}
  - {spiffe_id: /ledger/admin, selectors: ['socket:ledger']}
  - {spiffe_id: /ledger, selectors: ['docker:label:countersign.workload:ledger', 'docker:label:tier:books', 'unix:uid:65532']}
  - {spiffe_id: /risk, selectors: ['k8s:ns:bank', 'k8s:sa:risk']}
  - {spiffe_id: /risk, selectors: ['unix:path:/srv/risk']}
`

func TestASocketHasTheIdentitiesThatAskForIt(t *testing.T) {
	t.Parallel()
	r := parse(t, containers)
	for name, test := range map[string]struct{ has, want []string }{
		"its name":              {[]string{"socket:payments", "unix:uid:0"}, []string{"spiffe://bank.test/payments"}},
		"its name and its user": {[]string{"socket:ledger", "unix:uid:65532"}, []string{"spiffe://bank.test/ledger", "spiffe://bank.test/ledger/admin"}},
		"another user":          {[]string{"socket:ledger", "unix:uid:0"}, []string{"spiffe://bank.test/ledger/admin"}},
		"a longer name":         {[]string{"socket:payments2", "unix:uid:65532"}, nil},
		"the user alone":        {[]string{"unix:uid:65532"}, nil},
	} {
		if diff := cmp.Diff(test.want, ids(r.Match(test.has))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if diff := cmp.Diff([]string{"ledger", "payments"}, r.Sockets()); diff != "" {
		t.Errorf("the sockets that are asked for: %s", diff)
	}
	if sockets := parse(t, good).Sockets(); len(sockets) != 0 {
		t.Errorf("a file without sockets asks for %v", sockets)
	}
}

// An entry is for others with one selector of theirs, whatever else it asks for.
func TestWhatOthersAttestIsCountedAndMatchesNobody(t *testing.T) {
	t.Parallel()
	r := parse(t, containers)
	if n := r.Foreign(); n != 2 {
		t.Errorf("%d entries are for others to attest, want 2", n)
	}
	if n := parse(t, good).Foreign(); n != 0 {
		t.Errorf("%d entries of processes are for others to attest", n)
	}
	for _, has := range [][]string{{"unix:uid:65532"}, {"unix:uid:65532", "unix:path:/srv/ledger", "unix:sha256:" + sum}} {
		if got := ids(r.Match(has)); got != nil {
			t.Errorf("a process with %v is given %v", has, got)
		}
	}
	if r.NeedsSum([]string{"unix:uid:65532"}) {
		t.Error("an executable is read for an entry that is for others to attest")
	}
}

func TestTheRegistrationOfTheContainersIsRight(t *testing.T) {
	t.Parallel()
	f, err := Open("../../../../deploy/registration/containers.yaml", bankTD, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r := f.Current()
	for _, name := range []string{"accounts", "audit", "gateway", "ledger", "operator", "payments", "risk"} {
		if diff := cmp.Diff([]string{"spiffe://bank.test/" + name}, ids(r.Match([]string{"socket:" + name, "unix:uid:65532"}))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if r.Len() != len(r.Sockets())+r.Foreign() {
		t.Errorf("of %d entries %d are by a socket of their own and %d for SPIRE", r.Len(), len(r.Sockets()), r.Foreign())
	}
}
