package ledger

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Draft is the part of the books that a batch of requests concerns, and what they add to it. Requests are applied one after the other, and
// each sees what those before it did: the same transfer a second time is a repetition, and what one brought the next may spend. One that
// is refused leaves the draft as it was.
//
// What a request concerns has to be known to the draft before it is applied: what is not counts as not in the books. A draft is not safe for
// concurrent use. The zero value is not usable; see NewDraft.
type Draft struct {
	transfers map[string]Posted
	holds     map[string]*draftHold
	balances  map[side]*draftBalance

	posted  []PostedTransfer
	entries []Entry
	made    []*draftHold
}

// side is an account in one currency.
type side struct{ account, currency string }

type draftBalance struct {
	minor, held int64
	changed     bool
}

type draftHold struct {
	Hold
	made, ended bool // in this draft
}

// NewDraft returns a draft to which nothing is known yet.
func NewDraft() *Draft {
	return &Draft{transfers: make(map[string]Posted), holds: make(map[string]*draftHold), balances: make(map[side]*draftBalance)}
}

// KnowTransfer tells the draft of a transfer that is in the books.
func (d *Draft) KnowTransfer(id string, p Posted) { d.transfers[id] = p }

// KnowHold tells the draft of a hold that is in the books.
func (d *Draft) KnowHold(h Hold) { d.holds[h.ID] = &draftHold{Hold: h} }

// KnowBalance tells the draft of an account's balance.
func (d *Draft) KnowBalance(account string, b Balance) {
	d.balances[side{account, b.Currency}] = &draftBalance{minor: b.Minor, held: b.Held}
}

// Post adds a valid transfer, unless it is there already: then the answer is the first one's. With a HoldID it captures that hold.
//
// Errors: ErrConflict, ErrInsufficientFunds, ErrBalanceRange; when it captures a hold also ErrNoHold, ErrHoldReleased, ErrHoldCaptured, and
// ErrInvalid when it does not take the held money, or more than that.
func (d *Draft) Post(t Transfer, now time.Time) (Posted, error) {
	digest := t.Digest()
	if first, ok := d.transfers[t.ID]; ok {
		if first.Digest != digest {
			return Posted{}, &ConflictError{Kind: "transfer", Digest: first.Digest}
		}
		return first, nil
	}
	var hold *draftHold
	if t.HoldID != "" {
		var err error
		if hold, err = d.capturable(t); err != nil {
			return Posted{}, err
		}
	}
	after, err := d.balancesAfter(t, hold)
	if err != nil {
		return Posted{}, err
	}
	// From here on nothing fails.
	if hold != nil {
		d.end(hold, HoldCaptured, now)
		hold.TransferID = t.ID
	}
	for i, p := range t.Postings {
		b := d.balance(p.Account, p.Amount.Currency)
		b.minor, b.changed = after[i], true
		d.entries = append(d.entries, Entry{
			TransferID: t.ID, Account: p.Account, Amount: p.Amount, BalanceAfter: Money{p.Amount.Currency, after[i]},
			Description: t.Description, PostTime: now,
		})
	}
	posted := Posted{Time: now, Digest: digest}
	d.transfers[t.ID] = posted
	d.posted = append(d.posted, PostedTransfer{Transfer: t, Posted: posted})
	return posted, nil
}

// capturable returns the hold that a transfer captures, if it may.
func (d *Draft) capturable(t Transfer) (*draftHold, error) {
	hold, ok := d.holds[t.HoldID]
	if !ok {
		return nil, ErrNoHold
	}
	switch hold.State {
	case HoldReleased:
		return nil, ErrHoldReleased
	case HoldCaptured:
		return nil, ErrHoldCaptured
	case HoldActive:
	}
	for _, p := range t.Postings {
		if p.Account != hold.Account || p.Amount.Currency != hold.Amount.Currency || p.Amount.Minor >= 0 {
			continue
		}
		if p.Amount.Minor < -hold.Amount.Minor { // the least int64 has no opposite, so it is the hold's amount that is turned
			return nil, fmt.Errorf("the transfer is %w: it takes more from %s in %s than was held", ErrInvalid, p.Account, p.Amount.Currency)
		}
		return hold, nil
	}
	return nil, fmt.Errorf("the transfer is %w: it takes nothing from %s in %s, of which money is held for it", ErrInvalid, hold.Account,
		hold.Amount.Currency)
}

// balancesAfter returns the balance after each posting of a transfer, which occurs at most once in an account and currency, if all
// accounts may have them. What the hold, if any, has set aside counts as available.
func (d *Draft) balancesAfter(t Transfer, hold *draftHold) ([]int64, error) {
	after := make([]int64, len(t.Postings))
	for i, p := range t.Postings {
		var before draftBalance
		if b, ok := d.balances[side{p.Account, p.Amount.Currency}]; ok {
			before = *b
		}
		if hold != nil && p.Account == hold.Account && p.Amount.Currency == hold.Amount.Currency {
			before.held -= hold.Amount.Minor
		}
		sum, ok := Add(before.minor, p.Amount.Minor)
		if ok && sum < before.held && !MayOverdraw(p.Account) {
			return nil, &InsufficientFundsError{Account: p.Account, Currency: p.Amount.Currency}
		}
		if !ok || sum < -MaxBalance || sum > MaxBalance {
			return nil, fmt.Errorf("%w: account %s in %s", ErrBalanceRange, p.Account, p.Amount.Currency)
		}
		after[i] = sum
	}
	return after, nil
}

// Reserve adds a valid hold, unless it is there already: then the answer is that hold in its present state.
//
// Errors: ErrConflict, ErrInsufficientFunds.
func (d *Draft) Reserve(h Hold, now time.Time) (Hold, error) {
	if first, ok := d.holds[h.ID]; ok {
		if first.Account != h.Account || first.Amount != h.Amount {
			return Hold{}, &ConflictError{Kind: "hold", Digest: first.Digest()}
		}
		return first.Hold, nil
	}
	b := d.balance(h.Account, h.Amount.Currency)
	if b.minor-b.held < h.Amount.Minor { // both are from 0 to MaxBalance
		return Hold{}, &InsufficientFundsError{Account: h.Account, Currency: h.Amount.Currency}
	}
	b.held, b.changed = b.held+h.Amount.Minor, true
	made := &draftHold{Hold: Hold{ID: h.ID, Account: h.Account, Amount: h.Amount, State: HoldActive, CreateTime: now}, made: true}
	d.holds[h.ID], d.made = made, append(d.made, made)
	return made.Hold, nil
}

// Release makes what a hold has set aside available again. A hold that was released stays as it is.
//
// Errors: ErrNoHold, ErrHoldCaptured.
func (d *Draft) Release(id string, now time.Time) (Hold, error) {
	hold, ok := d.holds[id]
	switch {
	case !ok:
		return Hold{}, ErrNoHold
	case hold.State == HoldCaptured:
		return Hold{}, ErrHoldCaptured
	case hold.State == HoldActive:
		d.end(hold, HoldReleased, now)
	}
	return hold.Hold, nil
}

// end ends an active hold.
func (d *Draft) end(hold *draftHold, state HoldState, now time.Time) {
	b := d.balance(hold.Account, hold.Amount.Currency)
	b.held, b.changed = b.held-hold.Amount.Minor, true
	hold.State, hold.EndTime, hold.ended = state, now, true
}

// balance returns an account's balance to be changed.
func (d *Draft) balance(account, currency string) *draftBalance {
	b, ok := d.balances[side{account, currency}]
	if !ok {
		b = &draftBalance{}
		d.balances[side{account, currency}] = b
	}
	return b
}

// Changes is what a draft adds to the books.
type Changes struct {
	Transfers []PostedTransfer
	// Entries are in the order in which they are to be numbered; their Sequence is zero.
	Entries []Entry
	// Made are the holds that were not there before, in the order of making; a few may have ended since.
	Made []Hold
	// Ended are the holds that were there before and have ended.
	Ended []Hold
	// Balances are those that have changed, ordered by account and currency.
	Balances []AccountBalance
}

// PostedTransfer is a transfer with what the books say of it.
type PostedTransfer struct {
	Transfer
	Posted
}

// AccountBalance is a balance and whose it is.
type AccountBalance struct {
	Account string
	Balance
}

// Changes returns what the requests that were applied so far add to the books.
func (d *Draft) Changes() Changes {
	c := Changes{Transfers: d.posted, Entries: d.entries}
	for _, hold := range d.made {
		c.Made = append(c.Made, hold.Hold)
	}
	for _, id := range slices.Sorted(maps.Keys(d.holds)) {
		if hold := d.holds[id]; hold.ended && !hold.made {
			c.Ended = append(c.Ended, hold.Hold)
		}
	}
	for s, b := range d.balances {
		if b.changed {
			c.Balances = append(c.Balances, AccountBalance{Account: s.account, Balance: Balance{Money: Money{s.currency, b.minor}, Held: b.held}})
		}
	}
	slices.SortFunc(c.Balances, func(a, b AccountBalance) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Currency, b.Currency))
	})
	return c
}
