package ledger_test

import (
	"errors"
	"math"
	"math/big"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
)

func eur(minor int64) ledger.Money { return ledger.Money{Currency: "EUR", Minor: minor} }

func usd(minor int64) ledger.Money { return ledger.Money{Currency: "USD", Minor: minor} }

func transfer(postings ...ledger.Posting) ledger.Transfer {
	return ledger.Transfer{ID: "transfer-1", Postings: postings, Description: "rent"}
}

func TestValidateTakes(t *testing.T) {
	t.Parallel()
	tests := map[string]ledger.Transfer{
		"a payment":      transfer(ledger.Posting{"acc-a", eur(-5)}, ledger.Posting{"acc-b", eur(5)}),
		"a split":        transfer(ledger.Posting{"acc-a", eur(-5)}, ledger.Posting{"acc-b", eur(3)}, ledger.Posting{"bank-fees", eur(2)}),
		"two currencies": transfer(ledger.Posting{"acc-a", eur(-5)}, ledger.Posting{"bank-fx", eur(5)}, ledger.Posting{"bank-fx", usd(-6)}, ledger.Posting{"acc-a", usd(6)}),
		"the largest":    transfer(ledger.Posting{"bank-a", eur(math.MinInt64 + 1)}, ledger.Posting{"acc-b", eur(math.MaxInt64)}),
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := tt.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestValidateRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		transfer ledger.Transfer
		want     []string
	}{
		"money out of nothing":         {transfer(ledger.Posting{"acc-a", eur(-5)}, ledger.Posting{"acc-b", eur(6)}), []string{"the postings in EUR sum to 1"}},
		"money that vanishes":          {transfer(ledger.Posting{"acc-a", eur(-5)}, ledger.Posting{"acc-b", eur(4)}), []string{"sum to -1"}},
		"one currency for another":     {transfer(ledger.Posting{"acc-a", eur(-5)}, ledger.Posting{"acc-b", usd(5)}), []string{"EUR sum to -5", "USD sum to 5"}},
		"one posting":                  {transfer(ledger.Posting{"acc-a", eur(5)}), []string{"fewer than two postings", "sum to 5"}},
		"no posting":                   {transfer(), []string{"fewer than two postings"}},
		"an account twice":             {transfer(ledger.Posting{"acc-a", eur(-5)}, ledger.Posting{"acc-a", eur(5)}), []string{"posting 2: account acc-a occurs more than once in EUR"}},
		"an amount of zero":            {transfer(ledger.Posting{"acc-a", eur(0)}, ledger.Posting{"acc-b", eur(0)}), []string{"posting 1: the amount is zero", "posting 2: the amount is zero"}},
		"an account of no kind":        {transfer(ledger.Posting{"acc-a", eur(-5)}, ledger.Posting{"cash", eur(5)}), []string{`posting 2: account "cash"`}},
		"a sum that wraps around to 0": {wrapping(), []string{"out of range"}},
		"no ID":                        {ledger.Transfer{Postings: []ledger.Posting{{"acc-a", eur(-5)}, {"acc-b", eur(5)}}}, []string{"no ID"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := tt.transfer.Validate()
			if !errors.Is(err, ledger.ErrInvalid) {
				t.Fatalf("Validate = %v, want ErrInvalid", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
}

// wrapping returns postings that sum to 2^64, which int64 arithmetic takes for zero.
func wrapping() ledger.Transfer {
	return transfer(ledger.Posting{"acc-a", eur(math.MaxInt64)}, ledger.Posting{"acc-b", eur(math.MaxInt64)}, ledger.Posting{"acc-c", eur(2)})
}

func TestAddKnowsWhatInt64CannotHold(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		edge := rapid.SampledFrom([]int64{math.MinInt64, math.MinInt64 + 1, -1, 0, 1, math.MaxInt64 - 1, math.MaxInt64})
		number := rapid.OneOf(edge, rapid.Int64())
		a, b := number.Draw(t, "a"), number.Draw(t, "b")
		exact := new(big.Int).Add(big.NewInt(a), big.NewInt(b))
		sum, ok := ledger.Add(a, b)
		if ok != exact.IsInt64() || ok && sum != exact.Int64() {
			t.Fatalf("Add(%d, %d) = %d, %v; exactly it is %v", a, b, sum, ok, exact)
		}
	})
}

func TestTheSameContentHasTheSameDigest(t *testing.T) {
	t.Parallel()
	a := transfer(ledger.Posting{"acc-a", eur(-5)}, ledger.Posting{"acc-b", eur(3)}, ledger.Posting{"acc-c", eur(2)})
	b := transfer(slices.Clone(a.Postings)...)
	slices.Reverse(b.Postings)
	if a.Digest() != b.Digest() {
		t.Error("the order of the postings changes the digest")
	}
	if a.Postings[0].Account != "acc-a" {
		t.Error("Digest reordered the postings of its transfer")
	}
}

func TestOtherContentHasAnotherDigest(t *testing.T) {
	t.Parallel()
	base := transfer(ledger.Posting{"acc-a", eur(-5)}, ledger.Posting{"acc-b", eur(5)})
	tests := map[string]ledger.Transfer{
		"another ID":          {ID: "transfer-2", Postings: base.Postings, Description: base.Description},
		"another description": {ID: base.ID, Postings: base.Postings, Description: "food"},
		"another amount":      transfer(ledger.Posting{"acc-a", eur(-6)}, ledger.Posting{"acc-b", eur(6)}),
		"another account":     transfer(ledger.Posting{"acc-a", eur(-5)}, ledger.Posting{"acc-c", eur(5)}),
		"another currency":    transfer(ledger.Posting{"acc-a", usd(-5)}, ledger.Posting{"acc-b", usd(5)}),
		"the other direction": transfer(ledger.Posting{"acc-a", eur(5)}, ledger.Posting{"acc-b", eur(-5)}),
		"a text that moved":   {ID: base.ID + "r", Postings: base.Postings, Description: "ent"},
	}
	for name, other := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if base.Digest() == other.Digest() {
				t.Error("the digest is the same")
			}
		})
	}
}

func TestOnlyTheBankMayOverdraw(t *testing.T) {
	t.Parallel()
	for account, want := range map[string]bool{"bank-cash": true, "acc-a": false, "": false, "bank": false, "acc-bank-": false, "Bank-cash": false} {
		if got := ledger.MayOverdraw(account); got != want {
			t.Errorf("MayOverdraw(%q) = %v", account, got)
		}
	}
}
