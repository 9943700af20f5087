package store_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
	"github.com/countersign-mesh/countersign/services/payments/internal/store"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func openStore(t *testing.T, path string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), "sqlite:"+path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // some tests close it earlier
	return s
}

func newStore(t *testing.T) *store.Store {
	t.Helper()
	return openStore(t, filepath.Join(t.TempDir(), "payments.db"))
}

func order(request, payer, payee string) payment.Order {
	return payment.Order{
		Caller: "spiffe://bank.test/gateway", RequestID: request, Kind: payment.Transfer,
		PayerAccountID: payer, PayeeAccountID: payee,
		Amount: payment.Amount{CurrencyCode: "EUR", MinorUnits: 1234}, Reference: "rent, \"March\"",
	}
}

func create(t *testing.T, s *store.Store, o payment.Order) payment.Payment {
	t.Helper()
	p, err := s.Create(t.Context(), payment.Payment{
		Order: o, ID: payment.NewID(), PayerCustomerID: "alice", State: payment.Created, CreateTime: noon, UpdateTime: noon,
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func advance(t *testing.T, s *store.Store, id string, from, to payment.State, reasons ...payment.Reason) payment.Payment {
	t.Helper()
	p, err := s.Advance(t.Context(), id, from, to, reasons, noon.Add(time.Duration(to)*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAPaymentComesBackAsItWasStoredAlsoAfterARestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "payments.db")
	s := openStore(t, path)
	p := create(t, s, order("request-1", "acc-a", "acc-b"))
	want := advance(t, s, p.ID, payment.Created, payment.Refused, payment.Reason{Code: "A", Message: "b \"c\""}, payment.Reason{Code: "D"})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, path)
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
}

func TestAnUnknownPaymentIsNotFound(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	if _, err := s.Get(t.Context(), "pay-none"); !errors.Is(err, payment.ErrNotFound) {
		t.Errorf("Get: %v, want ErrNotFound", err)
	}
	if _, err := s.ByRequest(t.Context(), order("request-1", "acc-a", "acc-b")); !errors.Is(err, payment.ErrNotFound) {
		t.Errorf("ByRequest: %v, want ErrNotFound", err)
	}
}

// ATTACKS 62.
func TestARequestIDIsForOneContentOfOneCaller(t *testing.T) {
	t.Parallel()
	s := newStore(t)
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
		"a letter moved between parts": func(o *payment.Order) { o.PayerAccountID, o.PayeeAccountID = "acc-aa", "cc-b" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			other := first
			change(&other)
			if _, err := s.Create(t.Context(), payment.Payment{Order: other, ID: payment.NewID(), State: payment.Created}); !errors.Is(err, payment.ErrRequestReused) {
				t.Errorf("Create: %v, want ErrRequestReused", err)
			}
			if _, err := s.ByRequest(t.Context(), other); !errors.Is(err, payment.ErrRequestReused) {
				t.Errorf("ByRequest: %v, want ErrRequestReused", err)
			}
		})
	}
	others := first
	others.Caller, others.PayeeAccountID = "spiffe://bank.test/operator", "acc-c"
	if q := create(t, s, others); q.ID == p.ID {
		t.Error("two callers share a request ID")
	}
}

func TestAdvance(t *testing.T) {
	t.Parallel()
	states := []payment.State{payment.Created, payment.Assessed, payment.Posted, payment.Refused, payment.Held}
	legal := map[payment.State][]payment.State{
		payment.Created:  {payment.Assessed, payment.Refused, payment.Held},
		payment.Assessed: {payment.Posted, payment.Refused, payment.Held},
	}
	for _, from := range states {
		for _, to := range states {
			t.Run(fmt.Sprintf("from %s to %s", from, to), func(t *testing.T) {
				t.Parallel()
				s := newStore(t)
				p := create(t, s, order("request-1", "acc-a", "acc-b"))
				if from == payment.Posted {
					advance(t, s, p.ID, payment.Created, payment.Assessed)
					advance(t, s, p.ID, payment.Assessed, payment.Posted)
				} else if from != payment.Created {
					advance(t, s, p.ID, payment.Created, from)
				}
				want := false
				for _, l := range legal[from] {
					want = want || l == to
				}
				_, err := s.Advance(t.Context(), p.ID, from, to, nil, noon)
				if (err == nil) != want {
					t.Fatalf("allowed: %t (%v), want %t", err == nil, err, want)
				}
				after, err := s.Get(t.Context(), p.ID)
				if err != nil {
					t.Fatal(err)
				}
				if stored := after.State == to; stored != want && from != to {
					t.Errorf("the payment is %s", after.State)
				}
			})
		}
	}
}

func TestAdvanceFromAStateThatIsPastChangesNothing(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	p := create(t, s, order("request-1", "acc-a", "acc-b"))
	want := advance(t, s, p.ID, payment.Created, payment.Held)
	got := advance(t, s, p.ID, payment.Created, payment.Assessed)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	changes, err := s.Changes(t.Context(), "acc-a", 0, 10)
	if err != nil || len(changes) != 2 {
		t.Errorf("%d changes (%v), want 2", len(changes), err)
	}
}

func TestPagesShowBothSidesEachPaymentOnceNewestFirst(t *testing.T) {
	t.Parallel()
	s := newStore(t)
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
}

func TestUnfinishedFindsExactlyThoseUnderWay(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	created := create(t, s, order("request-1", "acc-a", "acc-b"))
	assessed := create(t, s, order("request-2", "acc-a", "acc-b"))
	advance(t, s, assessed.ID, payment.Created, payment.Assessed)
	held := create(t, s, order("request-3", "acc-a", "acc-b"))
	advance(t, s, held.ID, payment.Created, payment.Held)
	posted := create(t, s, order("request-4", "acc-a", "acc-b"))
	advance(t, s, posted.ID, payment.Created, payment.Assessed)
	advance(t, s, posted.ID, payment.Assessed, payment.Posted)
	var got []string
	for after := int64(0); ; {
		ids, last, err := s.Unfinished(t.Context(), after, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(ids) == 0 {
			break
		}
		got, after = append(got, ids...), last
	}
	if diff := cmp.Diff([]string{created.ID, assessed.ID}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestChangesAreEveryStateOfEachPaymentForBothSides(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	p := create(t, s, order("request-1", "acc-a", "acc-b"))
	advance(t, s, p.ID, payment.Created, payment.Assessed)
	q := create(t, s, order("request-2", "acc-b", "acc-c"))
	advance(t, s, p.ID, payment.Assessed, payment.Refused, payment.Reason{Code: "INSUFFICIENT_FUNDS"})
	for account, want := range map[string][]string{
		"acc-a": {p.ID + " created 0", p.ID + " assessed 0", p.ID + " refused 1"},
		"acc-b": {p.ID + " created 0", p.ID + " assessed 0", q.ID + " created 0", p.ID + " refused 1"},
		"acc-c": {q.ID + " created 0"},
		"acc-d": nil,
	} {
		var got []string
		for after := int64(0); ; {
			changes, err := s.Changes(t.Context(), account, after, 2)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range changes {
				if c.Sequence <= after {
					t.Errorf("%s: sequence %d after %d", account, c.Sequence, after)
				}
				after = c.Sequence
				got = append(got, fmt.Sprintf("%s %s %d", c.Payment.ID, c.Payment.State, len(c.Payment.Reasons)))
			}
			if len(changes) < 2 {
				break
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", account, diff)
		}
	}
}
