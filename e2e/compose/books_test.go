package compose

import (
	"fmt"
	"strings"
	"testing"

	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

// testBooks wants every payment that a payer was told is done in the books once, and no other; then it has the ledger's own command look at
// the database, while the ledger runs on it and when it does not.
func testBooks(t *testing.T, p *project, l *load, before int64) {
	done := l.payments()
	want := make(map[string]int)
	for _, paid := range done {
		want[fmt.Sprintf("%s %s %+d", paid.id, paid.payer, -paid.amount)]++
		want[fmt.Sprintf("%s %s %+d", paid.id, paid.payee, paid.amount)]++
	}
	deposits := 0
	for _, account := range l.accounts {
		for _, e := range p.entries(t, account) {
			if e.GetAmount().GetMinorUnits() == cash {
				deposits++
				continue
			}
			want[fmt.Sprintf("%s %s %+d", e.GetTransferId(), account, e.GetAmount().GetMinorUnits())]--
		}
	}
	for entry, n := range want {
		if n != 0 {
			t.Errorf("%+d times too few in the books: %s", n, entry)
		}
	}
	trial := &ledgerv1.CheckTrialBalanceResponse{}
	if err := p.call(t.Context(), "ledger", "CheckTrialBalance", &ledgerv1.CheckTrialBalanceRequest{}, trial); err != nil {
		t.Fatal(err)
	}
	if posted := before + int64(len(done)+payers); deposits != payers || !trial.GetBalanced() || trial.GetTransferCount() != posted {
		t.Errorf("want %d transfers in balance, and %d deposits, got %d deposits and %v", posted, payers, deposits, trial)
	}
	_, failed := l.count()
	t.Logf("%d payments were done; %d attempts were answered with an error and made again", len(done), failed)
	verify := []string{"verify", "--dsn=sqlite:/data/ledger.db"}
	t.Log(lastLine(p.run(t, append([]string{"exec", "--no-TTY", "ledger", "ledger"}, verify...)...)))
	p.run(t, "stop", "ledger")
	t.Log(lastLine(p.run(t, append([]string{"run", "--rm", "--no-deps", "--no-TTY", "ledger"}, verify...)...)))
}

// entries reads all entries of an account.
func (p *project) entries(t *testing.T, account string) []*ledgerv1.Entry {
	t.Helper()
	var all []*ledgerv1.Entry
	for token := ""; ; {
		page := &ledgerv1.ListEntriesResponse{}
		request := &ledgerv1.ListEntriesRequest{AccountId: account, PageSize: 200, PageToken: token}
		if err := p.call(t.Context(), "ledger", "ListEntries", request, page); err != nil {
			t.Fatal(err)
		}
		all = append(all, page.GetEntries()...)
		if token = page.GetNextPageToken(); token == "" {
			return all
		}
	}
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}
