package store_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
	"github.com/countersign-mesh/countersign/services/payments/internal/store"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestMain(m *testing.M) { goleak.VerifyTestMain(databasetest.Main{M: m}) }

func openStore(t *testing.T, dsn string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // some tests close it earlier
	return s
}

// each runs a test over a store of each kind.
func each(t *testing.T, f func(t *testing.T, s *store.Store)) {
	t.Helper()
	databasetest.Each(t, func(t *testing.T, dsn string) { f(t, openStore(t, dsn)) })
}

func order(request, payer, payee string) payment.Order {
	return payment.Order{
		Caller: "spiffe://bank.test/gateway", RequestID: request, Kind: payment.Transfer,
		PayerAccountID: payer, PayeeAccountID: payee,
		Amount: payment.Amount{CurrencyCode: "EUR", MinorUnits: 1234}, Reference: "rent, \"March\"",
		Mandate: payment.Mandate{CustomerID: "alice", PaymentID: "pay-" + request, Transaction: "txn-" + request},
	}
}

func create(t *testing.T, s *store.Store, o payment.Order) payment.Payment {
	t.Helper()
	p, err := s.Create(t.Context(), made(o))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func made(o payment.Order) payment.Payment {
	return payment.Payment{
		Order: o, ID: o.Mandate.PaymentID, PayerCustomerID: "alice", State: payment.Created, Version: 1, CreateTime: noon, UpdateTime: noon,
	}
}

func advance(t *testing.T, s *store.Store, p payment.Payment, to payment.State, reasons ...payment.Reason) payment.Payment {
	t.Helper()
	p, err := s.Advance(t.Context(), p, payment.Step{To: to, Reasons: reasons, Time: noon.Add(time.Duration(to) * time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// bring takes a created payment to a state, on a way that leads there.
func bring(t *testing.T, s *store.Store, p payment.Payment, to payment.State) payment.Payment {
	t.Helper()
	for _, state := range map[payment.State][]payment.State{
		payment.Assessed:  {payment.Assessed},
		payment.Held:      {payment.Assessed, payment.Held},
		payment.Posted:    {payment.Assessed, payment.Held, payment.Posted},
		payment.Refused:   {payment.Refused},
		payment.InReview:  {payment.InReview},
		payment.Unknown:   {payment.Assessed, payment.Held, payment.Unknown},
		payment.Releasing: {payment.Assessed, payment.Held, payment.Releasing},
	}[to] {
		p = advance(t, s, p, state)
	}
	return p
}

func TestAPaymentComesBackAsItWasStoredAlsoAfterARestart(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		s := openStore(t, dsn)
		p := bring(t, s, create(t, s, order("request-1", "acc-a", "acc-b")), payment.Held)
		want := advance(t, s, p, payment.Refused, payment.Reason{Code: "A", Message: "b \"c\""}, payment.Reason{Code: "D"})
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openStore(t, dsn)
		got, err := s.Get(t.Context(), p.ID)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("by ID: -want +got:\n%s", diff)
		}
		got, err = s.ByRequest(t.Context(), p.Order)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("by request: -want +got:\n%s", diff)
		}
	})
}

func TestAnUnknownPaymentIsNotFound(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *store.Store) {
		if _, err := s.Get(t.Context(), "pay-none"); !errors.Is(err, payment.ErrNotFound) {
			t.Errorf("Get: %v, want ErrNotFound", err)
		}
		if _, err := s.ByRequest(t.Context(), order("request-1", "acc-a", "acc-b")); !errors.Is(err, payment.ErrNotFound) {
			t.Errorf("ByRequest: %v, want ErrNotFound", err)
		}
	})
}

// ATTACKS 62.
func TestARequestIDIsForOneContentOfOneCaller(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *store.Store) {
		first := order("request-1", "acc-a", "acc-b")
		p := create(t, s, first)
		if again := create(t, s, first); again.ID != p.ID {
			t.Errorf("the same request made %s and %s", p.ID, again.ID)
		}
		for name, change := range map[string]func(*payment.Order){
			"another payee":                func(o *payment.Order) { o.PayeeAccountID = "acc-c" },
			"another payer":                func(o *payment.Order) { o.PayerAccountID = "acc-c" },
			"another amount":               func(o *payment.Order) { o.Amount.MinorUnits++ },
			"another currency":             func(o *payment.Order) { o.Amount.CurrencyCode = "USD" },
			"another reference":            func(o *payment.Order) { o.Reference = "" },
			"another kind":                 func(o *payment.Order) { o.Kind = payment.CashDeposit },
			"another payment ID":           func(o *payment.Order) { o.Mandate.PaymentID = "pay-request-2" },
			"a letter moved between parts": func(o *payment.Order) { o.PayerAccountID, o.PayeeAccountID = "acc-aa", "cc-b" },
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				other := first
				change(&other)
				if _, err := s.Create(t.Context(), made(other)); !errors.Is(err, payment.ErrRequestReused) {
					t.Errorf("Create: %v, want ErrRequestReused", err)
				}
				if _, err := s.ByRequest(t.Context(), other); !errors.Is(err, payment.ErrRequestReused) {
					t.Errorf("ByRequest: %v, want ErrRequestReused", err)
				}
			})
		}
		others := first
		others.Caller, others.PayeeAccountID = "spiffe://bank.test/operator", "acc-c"
		if _, err := s.Create(t.Context(), made(others)); !errors.Is(err, payment.ErrRequestReused) {
			t.Errorf("a payment ID that another request has: %v, want ErrRequestReused", err)
		}
		others.Mandate.PaymentID = "pay-request-2"
		if q := create(t, s, others); q.ID == p.ID {
			t.Error("two callers share a request ID")
		}
	})
}

func TestAdvance(t *testing.T) {
	t.Parallel()
	legal := map[payment.State][]payment.State{
		payment.Created:   {payment.Assessed, payment.Refused, payment.InReview},
		payment.Assessed:  {payment.Held, payment.Refused, payment.InReview},
		payment.Held:      {payment.Posted, payment.Unknown, payment.Releasing, payment.Refused, payment.InReview},
		payment.InReview:  {payment.InReview, payment.Assessed, payment.Refused, payment.Releasing},
		payment.Unknown:   {payment.Posted, payment.Releasing, payment.Refused, payment.InReview},
		payment.Releasing: {payment.Refused, payment.Posted, payment.InReview},
	}
	each(t, func(t *testing.T, s *store.Store) {
		for from := payment.Created; from <= payment.Releasing; from++ {
			for to := payment.Created; to <= payment.Releasing; to++ {
				p := bring(t, s, create(t, s, order(fmt.Sprintf("request-%d-%d", from, to), "acc-a", "acc-b")), from)
				want := slices.Contains(legal[from], to)
				next, err := s.Advance(t.Context(), p, payment.Step{To: to, Time: noon})
				if (err == nil) != want {
					t.Errorf("from %s to %s is allowed: %t (%v), want %t", from, to, err == nil, err, want)
				}
				if !want {
					next = p
				}
				after, err := s.Get(t.Context(), p.ID)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(next, after); diff != "" {
					t.Errorf("from %s to %s: -returned +stored:\n%s", from, to, diff)
				}
				if want && (after.State != to || after.Version != p.Version+1) {
					t.Errorf("from %s to %s: it is %s in version %d after %d", from, to, after.State, after.Version, p.Version)
				}
			}
		}
	})
}

// A payment may be in the same state twice. Who has seen it there the first time knows nothing of what happened since.
func TestAdvanceFromAVersionThatIsPastChangesNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *store.Store) {
		seen := bring(t, s, create(t, s, order("request-1", "acc-a", "acc-b")), payment.InReview)
		want := advance(t, s, seen, payment.InReview, payment.Reason{Code: "A"})
		got := advance(t, s, seen, payment.Assessed)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		changes, err := s.Changes(t.Context(), "acc-a", 0, 10)
		if err != nil || len(changes) != 3 {
			t.Errorf("%d changes (%v), want 3", len(changes), err)
		}
	})
}

func TestPagesShowBothSidesEachPaymentOnceNewestFirst(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *store.Store) {
		var want []string
		for n := range 9 {
			o := order(fmt.Sprintf("request-%d", n), "acc-a", "acc-b")
			if n%3 == 0 {
				o.PayerAccountID, o.PayeeAccountID = "acc-c", "acc-a"
			}
			want = append([]string{create(t, s, o).ID}, want...)
			create(t, s, order(fmt.Sprintf("foreign-%d", n), "acc-b", "acc-c"))
		}
		for _, size := range []int{1, 2, 3, 4, 9, 10} {
			var got []string
			var before int64
			for {
				page, err := s.List(t.Context(), "acc-a", before, size)
				if err != nil {
					t.Fatal(err)
				}
				for _, p := range page.Payments {
					got = append(got, p.ID)
				}
				if page.Next == 0 {
					break
				}
				before = page.Next
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("pages of %d: -want +got:\n%s", size, diff)
			}
		}
	})
}
