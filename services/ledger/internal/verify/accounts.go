package verify

import (
	"context"
	"math/big"

	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
)

// byAccount lists, one account and currency after the other, its entries in the order of posting, its active holds and its balance.
const byAccount = `
	SELECT account_id, currency_code, 0 AS part, sequence AS number, minor_units, balance_after AS other FROM entries
	UNION ALL
	SELECT account_id, currency_code, 1, number, minor_units, 0 FROM holds WHERE state = 'active'
	UNION ALL
	SELECT account_id, currency_code, 2, 0, minor_units, held FROM balances
	ORDER BY 1, 2, 3, 4`

// side is what the books have of an account in one currency.
type side struct {
	account, currency string
	sum               *big.Int // of the entries
	last              int64    // the balance after the last entry
	holds             int64
	held              *big.Int // of the active holds
	kept              bool     // there is a balance
}

// accounts checks each account by itself.
func (v *verifier) accounts(ctx context.Context) error {
	var s *side
	err := v.each(ctx, byAccount, func(scan func(...any) error) error {
		var (
			account, currency    string
			part                 int
			number, minor, other int64
		)
		if err := scan(&account, &currency, &part, &number, &minor, &other); err != nil {
			return err
		}
		if s == nil || s.account != account || s.currency != currency {
			v.side(s)
			s = &side{account: account, currency: currency, sum: new(big.Int), held: new(big.Int)}
		}
		switch part {
		case 0:
			v.entry(s, number, minor, other)
		case 1:
			s.holds++
			s.held.Add(s.held, big.NewInt(minor))
		case 2:
			v.report.Balances++
			v.balance(s, minor, other)
		}
		return nil
	})
	if err == nil {
		v.side(s)
	}
	return err
}

// entry checks one entry behind those before it.
func (v *verifier) entry(s *side, number, minor, after int64) {
	if expected, ok := ledger.Add(s.last, minor); !ok || expected != after {
		v.found.add(Chain, "account %s in %s: entry %d of %d leaves %d, and it was %d before", s.account, s.currency, number, minor, after, s.last)
	}
	if after < 0 && !ledger.MayOverdraw(s.account) {
		v.found.add(Overdraft, "account %s in %s: entry %d leaves %d", s.account, s.currency, number, after)
	}
	s.last = after
	s.sum.Add(s.sum, big.NewInt(minor))
}

// balance checks a balance behind all that it follows from.
func (v *verifier) balance(s *side, minor, held int64) {
	s.kept = true
	if s.sum.Cmp(big.NewInt(minor)) != 0 {
		v.found.add(Balance, "account %s in %s: the balance is %d, and the entries sum to %v", s.account, s.currency, minor, s.sum)
	}
	if s.held.Cmp(big.NewInt(held)) != 0 {
		v.found.add(Held, "account %s in %s: %d is held, and its %d active holds sum to %v", s.account, s.currency, held, s.holds, s.held)
	}
	if minor < held && !ledger.MayOverdraw(s.account) {
		v.found.add(Overdraft, "account %s in %s: the balance is %d, and %d is held", s.account, s.currency, minor, held)
	}
}

// side checks that an account that has anything has a balance.
func (v *verifier) side(s *side) {
	if s != nil && !s.kept {
		v.found.add(Balance, "account %s in %s: there is no balance, and the entries sum to %v", s.account, s.currency, s.sum)
		if s.held.Sign() != 0 {
			v.found.add(Held, "account %s in %s: there is no balance, and its %d active holds sum to %v", s.account, s.currency, s.holds, s.held)
		}
	}
}

const allHolds = `SELECT hold_id, account_id, currency_code, minor_units, state, coalesce(transfer_id, ''), end_time IS NOT NULL FROM holds ORDER BY number`

// holds checks each hold by itself. What captured it was checked with the transfers, and what is held with the accounts.
func (v *verifier) holds(ctx context.Context) error {
	return v.each(ctx, allHolds, func(scan func(...any) error) error {
		var (
			h     ledger.Hold
			state string
			ended bool
		)
		if err := scan(&h.ID, &h.Account, &h.Amount.Currency, &h.Amount.Minor, &state, &h.TransferID, &ended); err != nil {
			return err
		}
		if err := h.Validate(); err != nil {
			v.found.add(Content, "hold %s: %v", h.ID, err)
		}
		var err error
		if h.State, err = ledger.ParseHoldState(state); err != nil {
			v.found.add(Content, "hold %s: %v", h.ID, err)
			return nil
		}
		switch h.State {
		case ledger.HoldActive:
			v.report.Holds.Active++
		case ledger.HoldCaptured:
			v.report.Holds.Captured++
		case ledger.HoldReleased:
			v.report.Holds.Released++
		}
		if ended != (h.State != ledger.HoldActive) {
			v.found.add(Content, "hold %s is %s, and has an end: %t", h.ID, h.State, ended)
		}
		if (h.TransferID != "") != (h.State == ledger.HoldCaptured) {
			v.found.add(Content, "hold %s is %s, and the transfer that captured it is %q", h.ID, h.State, h.TransferID)
		}
		return nil
	})
}
