package register_test

import (
	"errors"
	"testing"

	"github.com/countersign-mesh/countersign/services/accounts/internal/register"
)

const operator = "spiffe://bank.test/operator"

func TestAFrozenAccountIsNotClosedAndItsBalanceIsNotAskedFor(t *testing.T) {
	t.Parallel()
	b := alwaysEmpty()
	r, account := newRegister(t, b)
	frozen, err := r.Freeze(t.Context(), account.ID, operator, "a court's order")
	if err != nil || !frozen.Frozen() || frozen.Usable() {
		t.Fatalf("frozen: %t, %v", frozen.Frozen(), err)
	}
	if _, err := r.Close(t.Context(), account.ID); !errors.Is(err, register.ErrFrozen) {
		t.Errorf("close: %v, want ErrFrozen", err)
	}
	if b.asked != 0 {
		t.Errorf("the ledger was asked %d times", b.asked)
	}
	if free, err := r.Unfreeze(t.Context(), account.ID, operator, "over"); err != nil || !free.Usable() {
		t.Errorf("unfrozen: %t, %v", free.Usable(), err)
	}
	if closed, err := r.Close(t.Context(), account.ID); err != nil || !closed.Closed() {
		t.Errorf("closed: %t, %v", closed.Closed(), err)
	}
}

func TestAFreezeThatComesBeforeTheAttemptStopsIt(t *testing.T) {
	t.Parallel()
	b := alwaysEmpty()
	r, account := newRegister(t, b)
	b.before = func(n int) {
		if n == 1 { // the first look, before the account is taken out of use
			if _, err := r.Freeze(t.Context(), account.ID, operator, "fraud"); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := r.Close(t.Context(), account.ID); !errors.Is(err, register.ErrFrozen) {
		t.Errorf("close: %v, want ErrFrozen", err)
	}
	if after, err := r.Get(t.Context(), account.ID); err != nil || !after.Frozen() || after.Closed() {
		t.Errorf("afterwards frozen: %t, closed: %t, %v", after.Frozen(), after.Closed(), err)
	}
}

func TestAnAccountThatIsBeingClosedIsNotFrozen(t *testing.T) {
	t.Parallel()
	b := alwaysEmpty()
	r, account := newRegister(t, b)
	b.before = func(n int) {
		if n != 2 {
			return
		}
		if _, err := r.Freeze(t.Context(), account.ID, operator, "fraud"); !errors.Is(err, register.ErrBusy) {
			t.Errorf("freeze: %v, want ErrBusy", err)
		}
	}
	if closed, err := r.Close(t.Context(), account.ID); err != nil || !closed.Closed() {
		t.Fatalf("closed: %t, %v", closed.Closed(), err)
	}
	if _, err := r.Freeze(t.Context(), account.ID, operator, "fraud"); !errors.Is(err, register.ErrClosed) {
		t.Errorf("freeze: %v, want ErrClosed", err)
	}
	if _, err := r.Unfreeze(t.Context(), account.ID, operator, "over"); !errors.Is(err, register.ErrClosed) {
		t.Errorf("unfreeze: %v, want ErrClosed", err)
	}
}

// PostgreSQL keeps no NUL in a text. What only one of the databases takes is taken by none.
func TestTextsThatNotEveryDatabaseKeepsAreRefused(t *testing.T) {
	t.Parallel()
	r, account := newRegister(t, alwaysEmpty())
	if _, err := r.Freeze(t.Context(), account.ID, operator, "fr\x00ud"); !errors.Is(err, register.ErrNUL) {
		t.Errorf("freeze: %v, want ErrNUL", err)
	}
	if _, err := r.Unfreeze(t.Context(), account.ID, operator, "\x00"); !errors.Is(err, register.ErrNUL) {
		t.Errorf("unfreeze: %v, want ErrNUL", err)
	}
	_, err := r.Open(t.Context(), register.Opening{RequestID: "request-2", CustomerID: "alice", DisplayName: "R\x00nt", CurrencyCode: "EUR"})
	if !errors.Is(err, register.ErrNUL) {
		t.Errorf("open: %v, want ErrNUL", err)
	}
}
