package ledger

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Validate reports everything that is wrong with a transfer by itself, whatever the books hold. The error is ErrInvalid.
func (t Transfer) Validate() error {
	var errs []error
	if t.ID == "" {
		errs = append(errs, errors.New("it has no ID"))
	}
	if len(t.Postings) < 2 {
		errs = append(errs, errors.New("it has fewer than two postings: money comes from somewhere and goes somewhere"))
	}
	errs = append(errs, t.checkPostings()...)
	errs = append(errs, t.checkSums()...)
	errs = append(errs, checkTexts(t.ID, t.HoldID, t.Description)...)
	if len(errs) > 0 {
		return fmt.Errorf("the transfer is %w: %w", ErrInvalid, errors.Join(errs...))
	}
	return nil
}

// checkTexts refuses what not every database can keep as a text.
func checkTexts(texts ...string) (errs []error) {
	for _, s := range texts {
		if !utf8.ValidString(s) || strings.Contains(s, "\x00") {
			errs = append(errs, fmt.Errorf("%q is not valid UTF-8 without NUL", s))
		}
	}
	return errs
}

// checkPostings looks at each posting, and for an account that occurs twice in a currency: which balance comes after which
// posting would be left to chance.
func (t Transfer) checkPostings() (errs []error) {
	type side struct{ account, currency string }
	seen := make(map[side]bool, len(t.Postings))
	for i, p := range t.Postings {
		if !strings.HasPrefix(p.Account, customerPrefix) && !strings.HasPrefix(p.Account, bankPrefix) {
			errs = append(errs, fmt.Errorf("posting %d: account %q is neither a customer's (%s…) nor the bank's (%s…)",
				i+1, p.Account, customerPrefix, bankPrefix))
		}
		errs = append(errs, checkTexts(p.Account, p.Amount.Currency)...)
		if p.Amount.Minor == 0 {
			errs = append(errs, fmt.Errorf("posting %d: the amount is zero", i+1))
		}
		s := side{p.Account, p.Amount.Currency}
		if seen[s] {
			errs = append(errs, fmt.Errorf("posting %d: account %s occurs more than once in %s", i+1, s.account, s.currency))
		}
		seen[s] = true
	}
	return errs
}

// checkSums makes sure that no currency gains or loses.
func (t Transfer) checkSums() (errs []error) {
	sums := make(map[string]int64)
	for i, p := range t.Postings {
		sum, ok := Add(sums[p.Amount.Currency], p.Amount.Minor)
		if !ok {
			return []error{fmt.Errorf("posting %d: the sum of the postings in %s is out of range", i+1, p.Amount.Currency)}
		}
		sums[p.Amount.Currency] = sum
	}
	for _, currency := range slices.Sorted(maps.Keys(sums)) {
		if sums[currency] != 0 {
			errs = append(errs, fmt.Errorf("the postings in %s sum to %d instead of zero", currency, sums[currency]))
		}
	}
	return errs
}

// Add returns a+b, and false when int64 does not hold it.
func Add(a, b int64) (int64, bool) {
	sum := a + b
	return sum, (sum > a) == (b > 0)
}

// Digest identifies the content of a transfer: two that mean the same have the same. The order of the postings means nothing.
func (t Transfer) Digest() [sha256.Size]byte {
	postings := slices.SortedFunc(slices.Values(t.Postings), func(a, b Posting) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Amount.Currency, b.Amount.Currency),
			cmp.Compare(a.Amount.Minor, b.Amount.Minor))
	})
	var c content
	if t.HoldID == "" { // as it was before there were holds, so that books from then stay as they are
		c.text("bank.ledger transfer 1")
		c.text(t.ID)
	} else {
		c.text("bank.ledger transfer 2")
		c.text(t.ID)
		c.text(t.HoldID)
	}
	c.text(t.Description)
	for _, p := range postings {
		c.text(p.Account)
		c.money(p.Amount)
	}
	return sha256.Sum256(c)
}

// content is what a digest is taken of. Each text goes in behind its length, so that no two contents run into the same bytes.
type content []byte

func (c *content) text(s string) {
	*c = binary.BigEndian.AppendUint64(*c, uint64(len(s)))
	*c = append(*c, s...)
}

func (c *content) money(m Money) {
	c.text(m.Currency)
	c.text(strconv.FormatInt(m.Minor, 10))
}
