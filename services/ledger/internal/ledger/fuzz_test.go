package ledger_test

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"math/big"
	"slices"
	"testing"

	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
)

// FuzzTransfer compares what Validate says of the sums, and Add of each step, with arithmetic that knows no bounds. Nine bytes are a posting:
// which account and currency, and how much.
func FuzzTransfer(f *testing.F) {
	posting := func(side byte, minor int64) []byte { return binary.BigEndian.AppendUint64([]byte{side}, uint64(minor)) }
	for _, seed := range [][]byte{
		nil,
		slices.Concat(posting(0, -5), posting(1, 5)),
		slices.Concat(posting(0, -5), posting(1, 6)),
		slices.Concat(posting(0, 5), posting(0, -5)),
		slices.Concat(posting(0, math.MaxInt64), posting(1, math.MaxInt64), posting(2, 2)), // 2^64
		slices.Concat(posting(0, math.MinInt64), posting(1, math.MinInt64)),                // -2^64
		slices.Concat(posting(0, math.MinInt64), posting(1, math.MaxInt64), posting(2, 1)),
		slices.Concat(posting(0, -5), posting(1, 5), posting(8, 7), posting(9, -7)),
	} {
		f.Add(seed, "rent", "")
	}
	f.Add(slices.Concat(posting(0, -5), posting(1, 5)), "a\x00b", "hold-1")
	f.Fuzz(func(t *testing.T, data []byte, description, holdID string) {
		transfer := ledger.Transfer{ID: "transfer-1", HoldID: holdID, Description: description}
		for ; len(data) >= 9; data = data[9:] {
			side, minor := data[0], int64(binary.BigEndian.Uint64(data[1:]))
			transfer.Postings = append(transfer.Postings, ledger.Posting{
				Account: []string{"acc-a", "acc-b", "acc-c", "bank-a", "bank-b", "acc-d", "acc-e", "acc-f"}[side%8],
				Amount:  ledger.Money{Currency: []string{"EUR", "USD"}[side/8%2], Minor: minor},
			})
		}
		err := transfer.Validate()
		if err != nil && !errors.Is(err, ledger.ErrInvalid) {
			t.Fatalf("Validate = %v, which is no ErrInvalid", err)
		}
		if err == nil {
			mustSumToZero(t, transfer)
		}
		addsExactly(t, transfer)
		turned := transfer
		turned.Postings = slices.Clone(transfer.Postings)
		slices.Reverse(turned.Postings)
		if turned.Digest() != transfer.Digest() {
			t.Error("the order of the postings changes the digest")
		}
		if again := turned.Validate(); errors.Is(again, ledger.ErrInvalid) != (err != nil) && !overflows(transfer) && !overflows(turned) {
			t.Errorf("Validate = %v, with the postings turned around %v", err, again)
		}
		other := transfer
		other.HoldID = holdID + "x"
		if other.Digest() == transfer.Digest() {
			t.Error("the hold does not change the digest")
		}
	})
}

// mustSumToZero checks what a valid transfer is: nothing gained, nothing lost, two sides, each account once a currency.
func mustSumToZero(t *testing.T, transfer ledger.Transfer) {
	t.Helper()
	sums := make(map[string]*big.Int)
	seen := make(map[[2]string]bool)
	for _, p := range transfer.Postings {
		if sums[p.Amount.Currency] == nil {
			sums[p.Amount.Currency] = new(big.Int)
		}
		sums[p.Amount.Currency].Add(sums[p.Amount.Currency], big.NewInt(p.Amount.Minor))
		side := [2]string{p.Account, p.Amount.Currency}
		if seen[side] || p.Amount.Minor == 0 {
			t.Errorf("a valid transfer has %v twice, or a posting of zero", side)
		}
		seen[side] = true
	}
	for currency, sum := range sums {
		if sum.Sign() != 0 {
			t.Errorf("a valid transfer sums to %v in %s", sum, currency)
		}
	}
	if len(transfer.Postings) < 2 {
		t.Error("a valid transfer has one side")
	}
}

// addsExactly compares Add with exact arithmetic.
func addsExactly(t *testing.T, transfer ledger.Transfer) {
	t.Helper()
	for i := 1; i < len(transfer.Postings); i++ {
		a, b := transfer.Postings[i-1].Amount.Minor, transfer.Postings[i].Amount.Minor
		exact := new(big.Int).Add(big.NewInt(a), big.NewInt(b))
		if sum, ok := ledger.Add(a, b); ok != exact.IsInt64() || ok && sum != exact.Int64() {
			t.Errorf("Add(%d, %d) = %d, %v; exactly it is %v", a, b, sum, ok, exact)
		}
	}
}

// overflows reports whether a sum on the way leaves int64, which Validate refuses even if it comes back.
func overflows(transfer ledger.Transfer) bool {
	sums := make(map[string]*big.Int)
	for _, p := range transfer.Postings {
		if sums[p.Amount.Currency] == nil {
			sums[p.Amount.Currency] = new(big.Int)
		}
		if !sums[p.Amount.Currency].Add(sums[p.Amount.Currency], big.NewInt(p.Amount.Minor)).IsInt64() {
			return true
		}
	}
	return false
}

// Digests are in databases: that of a transfer without a hold is what it was before there were holds.
func TestDigestsStayWhatTheyAre(t *testing.T) {
	t.Parallel()
	plain := ledger.Transfer{ID: "transfer-1", Description: "rent", Postings: []ledger.Posting{{"acc-a", eur(-5)}, {"acc-b", eur(5)}}}
	captures := plain
	captures.HoldID = "hold-1"
	for name, tt := range map[string]struct {
		got  [32]byte
		want string
	}{
		"a transfer":    {plain.Digest(), "c744f34d8ce3d9961d53a0053f235d6ce6ec64029439df7904ad9c49f0534348"},
		"out of a hold": {captures.Digest(), "aa2d9f9596c470cee49110bef87d3b9de7c9fe9638dae34668ce5d04f9f4eeed"},
		"a hold":        {hold("hold-1", "acc-a", 5).Digest(), "4558cbc5ffaf19e16249b345fad2f8ab1caa0496d8ca02e8eadb0e944a6116d9"},
	} {
		if got := hex.EncodeToString(tt.got[:]); got != tt.want {
			t.Errorf("the digest of %s is %s, want %s", name, got, tt.want)
		}
	}
}
