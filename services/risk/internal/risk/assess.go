package risk

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Spent is what was paid within a window.
type Spent struct {
	Payments int64 // in whatever currency
	Minor    int64 // in the currency that was asked for
}

// History knows the payments that went before.
type History interface {
	// Spent sums what the payer of p has paid after since, p itself not included.
	Spent(ctx context.Context, per Per, p Payment, since time.Time) (Spent, error)
}

// Assess asks every rule about a payment.
func (r Rules) Assess(ctx context.Context, p Payment, now time.Time, history History) (Assessment, error) {
	a := Assessment{Verdict: Allow, Version: r.Version}
	r.checkAmount(&a, p)
	if block, blocked := r.Blocked[p.Payee]; blocked {
		a.add(Refuse, block.Code, BlockedPayee, "payments to this account are blocked")
	}
	for _, limit := range r.Limits {
		spent, err := history.Spent(ctx, limit.Per, p, now.Add(-limit.Window))
		if err != nil {
			return Assessment{}, fmt.Errorf("sum what was paid within %v: %w", limit.Window, err)
		}
		limit.check(&a, p, spent)
	}
	return a, nil
}

func (r Rules) checkAmount(a *Assessment, p Payment) {
	ceiling, known := r.Ceilings[p.Currency]
	switch {
	case !known:
		// An amount that nobody has thought of is looked at by a person.
		a.add(Hold, "", AmountCeiling, "payments in "+p.Currency+" are looked at one by one")
	case p.Minor > ceiling.RefuseAbove:
		a.add(Refuse, ceiling.Code, AmountCeiling, "the amount is above what one payment in "+p.Currency+" may be")
	case p.Minor > ceiling.HoldAbove:
		a.add(Hold, ceiling.Code, AmountCeiling, "a payment of this amount in "+p.Currency+" is looked at by a person")
	}
}

func (l Limit) check(a *Assessment, p Payment, spent Spent) {
	who := map[Per]string{PerAccount: "account", PerCustomer: "customer"}[l.Per]
	if l.MaxPayments > 0 && spent.Payments >= l.MaxPayments {
		a.add(l.Verdict, l.Code, VelocityCount, fmt.Sprintf("too many payments of this %s within %s", who, brief(l.Window)))
	}
	if limit, limited := l.MaxAmount[p.Currency]; limited && p.Minor > limit-spent.Minor { // a difference of what is not below zero cannot overflow
		a.add(l.Verdict, l.Code, VelocityAmount, fmt.Sprintf("too much paid by this %s within %s", who, brief(l.Window)))
	}
}

// brief writes 1h for 1h0m0s.
func brief(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
