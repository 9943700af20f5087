package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	"github.com/countersign-mesh/countersign/pkg/database"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

// auditor is the operator who compares the books with what the clients of a crowd were told.
type auditor struct {
	books    ledgerv1.LedgerServiceClient
	payments paymentsv1.PaymentServiceClient
	// paymentsDSN is where payments keeps, beside payments, which holds it has yet to release.
	paymentsDSN string
}

func newAuditor(t *testing.T, mesh *bank.Apart, operator *bank.Identity) auditor {
	t.Helper()
	return auditor{
		books:    ledgerv1.NewLedgerServiceClient(mesh.Dial(t, operator, "ledger")),
		payments: paymentsv1.NewPaymentServiceClient(mesh.Dial(t, operator, "payments")),

		paymentsDSN: mesh.DSN("payments"),
	}
}

// checkCrowd waits until every payment has come to rest, and wants each that a client was told is done in the books once, and nothing else:
// balances as a model computes them, nothing held any more, and payments that say the same as the clients were told.
func (a auditor) checkCrowd(t *testing.T, c *crowd) {
	t.Helper()
	a.checkPayments(t, c, a.atRest(t, c))
	a.checkEntries(t, c)
	a.checkBalances(t, c)
	posted := int64(len(c.accounts))
	for _, p := range c.told {
		if p.done {
			posted++
		}
	}
	trial, err := a.books.CheckTrialBalance(t.Context(), &ledgerv1.CheckTrialBalanceRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if !trial.GetBalanced() || trial.GetTransferCount() != posted || trial.GetEntryCount() != 2*posted {
		t.Errorf("want %d transfers in balance, got %v", posted, trial)
	}
	for _, sum := range trial.GetSums() {
		if sum.GetMinorUnits() != 0 {
			t.Errorf("all entries in %s sum to %d", sum.GetCurrencyCode(), sum.GetMinorUnits())
		}
	}
	t.Logf("%d payments: %d each once in the books, %d refused and not in the books", len(c.told), posted-int64(len(c.accounts)),
		len(c.told)+len(c.accounts)-int(posted))
}

// atRest waits until no payment is under way any more, and returns them all, by their IDs.
func (a auditor) atRest(t *testing.T, c *crowd) map[string]*paymentsv1.Payment {
	t.Helper()
	var all map[string]*paymentsv1.Payment
	bank.Eventually(t, time.Minute, func() string {
		all = make(map[string]*paymentsv1.Payment)
		for _, account := range c.accounts {
			if err := a.list(t.Context(), account.id, all); err != nil {
				return err.Error()
			}
		}
		for id, p := range all {
			if p.GetState() != paymentsv1.PaymentState_PAYMENT_STATE_POSTED && p.GetState() != paymentsv1.PaymentState_PAYMENT_STATE_REFUSED {
				return fmt.Sprintf("%s is %v: %v", id, p.GetState(), p.GetReasons())
			}
		}
		return ""
	})
	return all
}

func (a auditor) list(ctx context.Context, account string, all map[string]*paymentsv1.Payment) error {
	for token := ""; ; {
		page, err := a.payments.ListPayments(ctx, &paymentsv1.ListPaymentsRequest{AccountId: account, PageSize: 200, PageToken: token})
		if err != nil {
			return err
		}
		for _, p := range page.GetPayments() {
			all[p.GetPaymentId()] = p
		}
		if token = page.GetNextPageToken(); token == "" {
			return nil
		}
	}
}

// checkPayments compares what payments says, by list and one by one, with what the clients were told.
func (a auditor) checkPayments(t *testing.T, c *crowd, listed map[string]*paymentsv1.Payment) {
	t.Helper()
	if want := len(c.told) + len(c.accounts); len(listed) != want {
		t.Errorf("clients know of %d payments, and payments lists %d", want, len(listed))
	}
	var checking sync.WaitGroup
	const width = 8
	for n := range width {
		checking.Go(func() {
			for i := n; i < len(c.told); i += width {
				want := c.told[i]
				got, err := a.payments.GetPayment(t.Context(), &paymentsv1.GetPaymentRequest{PaymentId: want.id})
				if err != nil {
					t.Errorf("%s: %v", want.id, err)
					continue
				}
				want.compare(t, got.GetPayment())
				want.compare(t, listed[want.id])
			}
		})
	}
	checking.Wait()
}

// compare wants a payment to be what a client was told of it.
func (p told) compare(t *testing.T, got *paymentsv1.Payment) {
	t.Helper()
	state := paymentsv1.PaymentState_PAYMENT_STATE_REFUSED
	if p.done {
		state = paymentsv1.PaymentState_PAYMENT_STATE_POSTED
	}
	same := got.GetPaymentId() == p.id && got.GetState() == state && got.GetReference() == p.request.GetReference() &&
		got.GetPayerAccountId() == p.request.GetPayerAccountId() && got.GetPayeeAccountId() == p.request.GetPayeeAccountId() &&
		got.GetAmount().GetMinorUnits() == p.request.GetAmount().GetMinorUnits()
	if !same {
		t.Errorf("payment %s: the client was told that it is %v: %v\nand payments says %v", p.id, state, p.request, got)
	}
}

// checkEntries wants two entries in the books for each payment that is done, none for one that was refused, and no others.
func (a auditor) checkEntries(t *testing.T, c *crowd) {
	t.Helper()
	want := make(map[string]int)
	for _, account := range c.accounts {
		want[fmt.Sprintf("%s %s %+d", account.deposit, account.id, account.cash)]++
		want[fmt.Sprintf("%s bank-cash %+d", account.deposit, -account.cash)]++
	}
	for _, p := range c.told {
		if p.done {
			want[fmt.Sprintf("%s %s %+d", p.id, p.request.GetPayerAccountId(), -p.request.GetAmount().GetMinorUnits())]++
			want[fmt.Sprintf("%s %s %+d", p.id, p.request.GetPayeeAccountId(), p.request.GetAmount().GetMinorUnits())]++
		}
	}
	for _, account := range append(names(c.accounts, func(a account) string { return a.id }), "bank-cash") {
		for _, e := range a.entries(t, account) {
			want[fmt.Sprintf("%s %s %+d", e.GetTransferId(), e.GetAccountId(), e.GetAmount().GetMinorUnits())]--
		}
	}
	for entry, n := range want {
		if n > 0 {
			t.Errorf("missing in the books: %s", entry)
		} else if n < 0 {
			t.Errorf("in the books %d times more than it should be: %s", -n, entry)
		}
	}
}

// entries reads all entries of an account, oldest first, and wants each balance to follow from the one before, none of a customer below zero.
func (a auditor) entries(t *testing.T, account string) []*ledgerv1.Entry {
	t.Helper()
	var all []*ledgerv1.Entry
	for token := ""; ; {
		page, err := a.books.ListEntries(t.Context(), &ledgerv1.ListEntriesRequest{AccountId: account, PageSize: 200, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page.GetEntries()...)
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	slices.Reverse(all)
	balances, last := make(map[string]int64), int64(0)
	for _, e := range all {
		currency := e.GetAmount().GetCurrencyCode()
		balances[currency] += e.GetAmount().GetMinorUnits()
		if e.GetSequence() <= last || e.GetBalanceAfter().GetMinorUnits() != balances[currency] ||
			strings.HasPrefix(account, "acc-") && balances[currency] < 0 {
			t.Errorf("after the entry with sequence number %d, with a balance of %d: %v", last, balances[currency], e)
		}
		last = e.GetSequence()
	}
	return all
}

// checkBalances compares balances with what the acknowledged payments make them, and wants nothing held but what payments has noted to release.
//
// Of two processes that ask for the same hold one may be refused, and the other, after money has come in, given it and killed before it sees that the
// payment is refused by now. Payments looks for such holds minutes later, when no request can be under way any more.
func (a auditor) checkBalances(t *testing.T, c *crowd) {
	t.Helper()
	want := make(map[string]int64)
	for _, account := range c.accounts {
		want[account.id] += account.cash
	}
	for _, p := range c.told {
		if p.done {
			want[p.request.GetPayerAccountId()] -= p.request.GetAmount().GetMinorUnits()
			want[p.request.GetPayeeAccountId()] += p.request.GetAmount().GetMinorUnits()
		}
	}
	late := a.lateHolds(t)
	for id, minor := range want {
		noted := a.notedHolds(t, id, late)
		if got, held := a.balance(t, id); got != minor || held != noted {
			t.Errorf("%s: want a balance of %d and %d held, got %d and %d held", id, minor, noted, got, held)
		}
	}
}

// notedHolds wants no active hold on an account but those of payments that are late, and returns how much these hold.
func (a auditor) notedHolds(t *testing.T, account string, late map[string]bool) (held int64) {
	t.Helper()
	holds, err := a.books.ListHolds(t.Context(), &ledgerv1.ListHoldsRequest{AccountId: account})
	if err != nil {
		t.Fatal(err)
	}
	for _, hold := range holds.GetHolds() {
		if !late[hold.GetHoldId()] {
			t.Errorf("%s: a hold is left that nobody will release: %v", account, hold)
		}
		held += hold.GetAmount().GetMinorUnits()
	}
	return held
}

// noHolds wants no active hold on an account.
func (a auditor) noHolds(t *testing.T, account string) {
	t.Helper()
	a.notedHolds(t, account, nil)
}

// lateHolds returns which payments are refused and may have a hold, which payments will release.
func (a auditor) lateHolds(t *testing.T) map[string]bool {
	t.Helper()
	db, err := database.OpenReadOnly(t.Context(), a.paymentsDSN)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), "SELECT payment_id FROM late_holds")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	late := make(map[string]bool)
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			t.Fatal(err)
		}
		late[id] = true
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return late
}

// balance returns what is in an account of one currency, and how much of it is held.
func (a auditor) balance(t *testing.T, account string) (balance, held int64) {
	t.Helper()
	response, err := a.books.GetBalance(t.Context(), &ledgerv1.GetBalanceRequest{AccountId: account})
	if err != nil {
		t.Fatal(err)
	}
	sum := func(amounts []*moneyv1.Money) (total int64) {
		for _, m := range amounts {
			total += m.GetMinorUnits()
		}
		return total
	}
	return sum(response.GetBalances()), sum(response.GetHeld())
}

// verifyOffline stops the ledger and has its own command look at the database.
func verifyOffline(t *testing.T, mesh *bank.Apart) {
	t.Helper()
	mesh.Process("ledger").Signal(t, syscall.SIGTERM)
	if code := mesh.Process("ledger").Wait(t, 20*time.Second); code != 0 {
		t.Errorf("ledger ended with %d:\n%s", code, mesh.Process("ledger").Output())
	}
	out, code := mesh.Run(t, nil, "ledger", "verify", "--dsn="+mesh.DSN("ledger"))
	if code != 0 {
		t.Errorf("ledger verify: exit code %d:\n%s", code, out)
	}
}
