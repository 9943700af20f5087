package risk_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/services/risk/internal/risk"
)

var now = time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)

// fakeHistory answers by whose payments and by how far back it is asked.
type fakeHistory map[risk.Per]map[time.Duration]risk.Spent

func (f fakeHistory) Spent(_ context.Context, per risk.Per, _ risk.Payment, since time.Time) (risk.Spent, error) {
	spent, ok := f[per][now.Sub(since)]
	if !ok {
		return risk.Spent{}, errors.New("asked for a window that no rule has")
	}
	return spent, nil
}

func rules() risk.Rules {
	return risk.Rules{
		Ceilings: map[string]risk.Ceiling{"EUR": {HoldAbove: 5000, RefuseAbove: 10000}},
		Limits: []risk.Limit{
			{Per: risk.PerAccount, Window: time.Minute, MaxPayments: 3, Verdict: risk.Refuse},
			{Per: risk.PerAccount, Window: time.Hour, MaxAmount: map[string]int64{"EUR": 20000}, Verdict: risk.Hold},
			{Per: risk.PerCustomer, Window: 90 * time.Minute, MaxPayments: 5, MaxAmount: map[string]int64{"EUR": 30000}, Verdict: risk.Hold},
		},
		Blocked: map[string]risk.Block{"acc-bad": {Why: "known fraud"}},
	}
}

func TestAssess(t *testing.T) {
	t.Parallel()
	var (
		amountHeld    = risk.Reason{Code: risk.AmountCeiling, Message: "a payment of this amount in EUR is looked at by a person"}
		amountRefused = risk.Reason{Code: risk.AmountCeiling, Message: "the amount is above what one payment in EUR may be"}
		blocked       = risk.Reason{Code: risk.BlockedPayee, Message: "payments to this account are blocked"}
		tooMany       = risk.Reason{Code: risk.VelocityCount, Message: "too many payments of this account within 1m"}
		tooMuch       = risk.Reason{Code: risk.VelocityAmount, Message: "too much paid by this account within 1h"}
		customerMany  = risk.Reason{Code: risk.VelocityCount, Message: "too many payments of this customer within 1h30m"}
		customerMuch  = risk.Reason{Code: risk.VelocityAmount, Message: "too much paid by this customer within 1h30m"}
	)
	tests := map[string]struct {
		payment                risk.Payment
		minute, hour, customer risk.Spent
		want                   risk.Assessment
	}{
		"a small payment":            {payment: risk.Payment{Minor: 1}, want: risk.Assessment{Verdict: risk.Allow}},
		"the lower ceiling":          {payment: risk.Payment{Minor: 5000}, want: risk.Assessment{Verdict: risk.Allow}},
		"above the lower ceiling":    {payment: risk.Payment{Minor: 5001}, want: risk.Assessment{Verdict: risk.Hold, Reasons: []risk.Reason{amountHeld}}},
		"the upper ceiling":          {payment: risk.Payment{Minor: 10000}, want: risk.Assessment{Verdict: risk.Hold, Reasons: []risk.Reason{amountHeld}}},
		"above the upper ceiling":    {payment: risk.Payment{Minor: 10001}, want: risk.Assessment{Verdict: risk.Refuse, Reasons: []risk.Reason{amountRefused}}},
		"a blocked payee":            {payment: risk.Payment{Minor: 1, Payee: "acc-bad"}, want: risk.Assessment{Verdict: risk.Refuse, Reasons: []risk.Reason{blocked}}},
		"the last of a minute":       {payment: risk.Payment{Minor: 1}, minute: risk.Spent{Payments: 2}, want: risk.Assessment{Verdict: risk.Allow}},
		"one more in a minute":       {payment: risk.Payment{Minor: 1}, minute: risk.Spent{Payments: 3}, want: risk.Assessment{Verdict: risk.Refuse, Reasons: []risk.Reason{tooMany}}},
		"all that an hour has":       {payment: risk.Payment{Minor: 1}, hour: risk.Spent{Payments: 99, Minor: 19999}, want: risk.Assessment{Verdict: risk.Allow}},
		"more than an hour has":      {payment: risk.Payment{Minor: 2}, hour: risk.Spent{Minor: 19999}, want: risk.Assessment{Verdict: risk.Hold, Reasons: []risk.Reason{tooMuch}}},
		"two limits of a customer":   {payment: risk.Payment{Minor: 2}, customer: risk.Spent{Payments: 5, Minor: 29999}, want: risk.Assessment{Verdict: risk.Hold, Reasons: []risk.Reason{customerMany, customerMuch}}},
		"a past beyond all bounds":   {payment: risk.Payment{Minor: 1}, hour: risk.Spent{Minor: math.MaxInt64}, want: risk.Assessment{Verdict: risk.Hold, Reasons: []risk.Reason{tooMuch}}},
		"an unheard-of currency":     {payment: risk.Payment{Minor: 1, Currency: "XAU"}, want: risk.Assessment{Verdict: risk.Hold, Reasons: []risk.Reason{{risk.AmountCeiling, "payments in XAU are looked at one by one"}}}},
		"everything at once":         {payment: risk.Payment{Minor: 10001, Payee: "acc-bad"}, minute: risk.Spent{Payments: 3}, hour: risk.Spent{Minor: 20000}, want: risk.Assessment{Verdict: risk.Refuse, Reasons: []risk.Reason{amountRefused, blocked, tooMany, tooMuch}}},
		"a refusal before a holding": {payment: risk.Payment{Minor: 1, Payee: "acc-bad"}, hour: risk.Spent{Minor: 20000}, want: risk.Assessment{Verdict: risk.Refuse, Reasons: []risk.Reason{blocked, tooMuch}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tt.payment.Currency == "" {
				tt.payment.Currency = "EUR"
			}
			history := fakeHistory{
				risk.PerAccount:  {time.Minute: tt.minute, time.Hour: tt.hour},
				risk.PerCustomer: {90 * time.Minute: tt.customer},
			}
			got, err := rules().Assess(t.Context(), tt.payment, now, history)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Assess (-want +got):\n%s", diff)
			}
		})
	}
}

// Whoever looks after the rules sees which of them spoke. The payer's text is the same.
func TestRulesSpeakUnderTheirOwnCodes(t *testing.T) {
	t.Parallel()
	r := rules()
	r.Version = "v1"
	r.Ceilings["EUR"] = risk.Ceiling{Code: "BIG_ONE", HoldAbove: 5000, RefuseAbove: 10000}
	r.Limits[0].Code, r.Limits[2].Code = "ROBOT", "CUSTOMER_EMPTIED"
	r.Blocked["acc-bad"] = risk.Block{Code: "COURT_ORDER", Why: "case 7"}
	history := fakeHistory{
		risk.PerAccount:  {time.Minute: {Payments: 3}, time.Hour: {Minor: 20000}},
		risk.PerCustomer: {90 * time.Minute: {Payments: 5, Minor: 30000}},
	}
	got, err := r.Assess(t.Context(), risk.Payment{Minor: 10001, Currency: "EUR", Payee: "acc-bad"}, now, history)
	if err != nil {
		t.Fatal(err)
	}
	want := risk.Assessment{Verdict: risk.Refuse, Version: "v1", Reasons: []risk.Reason{
		{Code: "BIG_ONE", Message: "the amount is above what one payment in EUR may be"},
		{Code: "COURT_ORDER", Message: "payments to this account are blocked"},
		{Code: "ROBOT", Message: "too many payments of this account within 1m"},
		{Code: risk.VelocityAmount, Message: "too much paid by this account within 1h"},
		{Code: "CUSTOMER_EMPTIED", Message: "too many payments of this customer within 1h30m"},
		{Code: "CUSTOMER_EMPTIED", Message: "too much paid by this customer within 1h30m"},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Assess (-want +got):\n%s", diff)
	}
}

func TestWithoutRulesEveryPaymentIsHeld(t *testing.T) {
	t.Parallel()
	got, err := risk.Rules{}.Assess(t.Context(), risk.Payment{Minor: 1, Currency: "EUR"}, now, fakeHistory{})
	if err != nil || got.Verdict != risk.Hold {
		t.Errorf("Assess = %+v, %v; want it held", got, err)
	}
}

func TestWithoutItsPastAPaymentGetsNoVerdict(t *testing.T) {
	t.Parallel()
	got, err := rules().Assess(t.Context(), risk.Payment{Minor: 1, Currency: "EUR"}, now, fakeHistory{})
	if err == nil || got.Verdict != 0 {
		t.Errorf("Assess = %+v, %v; want an error and no verdict", got, err)
	}
}
