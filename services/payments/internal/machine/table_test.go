package machine_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// cell is what happens to a payment in a state when somebody gives an answer.
type cell struct {
	way     []payment.State // from created on, to the state that is tested
	point   string          // where the answer is given: what is asked otherwise goes well
	answer  error
	verdict payment.Verdict // instead of allow
	ledger  string          // what the ledger has done before: "held", "captured", "released", "captured by another"
	want    []payment.State // the states that follow
	code    string          // of the reason in the end
	left    bool            // it is taken up again later
}

func cells() map[string]cell {
	away, none := []payment.State(nil), errGone
	to := func(states ...payment.State) []payment.State { return states }
	toReview, toAssessed, toHeld := to(payment.InReview), to(payment.Assessed), to(payment.Assessed, payment.Held)
	toUnknown := to(payment.Assessed, payment.Held, payment.Unknown)
	toReleasing := to(payment.Assessed, payment.Held, payment.Releasing)
	const allow, refuse, hold = payment.Allow, payment.Refuse, payment.Hold
	const rejected, unavailable = payment.CodeLedgerRejected, payment.CodeRiskUnavailable
	return map[string]cell{
		"created: allow":      {nil, "", nil, allow, "", to(payment.Assessed, payment.Held, payment.Posted), "", false},
		"created: refuse":     {nil, "", nil, refuse, "", to(payment.Refused), "AMOUNT_CEILING", false},
		"created: hold":       {nil, "", nil, hold, "", to(payment.InReview), "AMOUNT_CEILING", false},
		"created: no answer":  {nil, beforeRisk, none, allow, "", to(payment.InReview), unavailable, true},
		"created: no verdict": {nil, "", nil, 99, "", to(payment.InReview), unavailable, true},

		"in review without risk: allow":      {toReview, "", nil, allow, "", to(payment.Assessed, payment.Held, payment.Posted), "", false},
		"in review without risk: refuse":     {toReview, "", nil, refuse, "", to(payment.Refused), "AMOUNT_CEILING", false},
		"in review without risk: hold":       {toReview, "", nil, hold, "", to(payment.InReview), "AMOUNT_CEILING", false},
		"in review without risk: no answer":  {toReview, beforeRisk, none, allow, "", away, unavailable, true},
		"in review without risk: no verdict": {toReview, "", nil, 99, "", away, unavailable, true},

		"assessed: set aside":          {toAssessed, "", nil, 0, "", to(payment.Held, payment.Posted), "", false},
		"assessed: set aside before":   {toAssessed, "", nil, 0, "held", to(payment.Held, payment.Posted), "", false},
		"assessed: captured before":    {toAssessed, "", nil, 0, "captured", to(payment.Held, payment.Posted), "", false},
		"assessed: released before":    {toAssessed, "", nil, 0, "released", to(payment.Refused), rejected, false},
		"assessed: too little":         {toAssessed, beforeReserve, payment.ErrInsufficientFunds, 0, "", to(payment.Refused), "INSUFFICIENT_FUNDS", false},
		"assessed: rejected":           {toAssessed, beforeReserve, payment.ErrLedgerRejected, 0, "", to(payment.InReview), rejected, false},
		"assessed: without a mandate":  {toAssessed, beforeReserve, payment.ErrNoMandate, 0, "", to(payment.InReview), rejected, false},
		"assessed: not asked":          {toAssessed, beforeReserve, payment.ErrNotAsked, 0, "", away, "", true},
		"assessed: no answer":          {toAssessed, beforeReserve, none, 0, "", away, "", true},
		"assessed: the answer is lost": {toAssessed, afterReserve, none, 0, "", away, "", true},

		"held: posted":              {toHeld, "", nil, 0, "held", to(payment.Posted), "", false},
		"held: posted before":       {toHeld, "", nil, 0, "captured", to(payment.Posted), "", false},
		"held: accounts are away":   {toHeld, atAccounts, none, 0, "held", away, "", true},
		"held: frozen":              {toHeld, "frozen", nil, 0, "held", to(payment.Releasing, payment.Refused), "ACCOUNT_FROZEN", false},
		"held: closed":              {toHeld, "closed", nil, 0, "held", to(payment.Releasing, payment.Refused), "ACCOUNT_CLOSED", false},
		"held: gone":                {toHeld, atAccounts, payment.ErrNoAccount, 0, "held", to(payment.Releasing, payment.Refused), "ACCOUNT_CLOSED", false},
		"held: frozen, but posted":  {toHeld, "frozen", nil, 0, "captured", to(payment.Releasing, payment.Posted), "", false},
		"held: too little":          {toHeld, beforeLedger, payment.ErrInsufficientFunds, 0, "held", to(payment.Releasing, payment.Refused), "INSUFFICIENT_FUNDS", false},
		"held: out of range":        {toHeld, beforeLedger, payment.ErrBalanceOutOfRange, 0, "held", to(payment.Releasing, payment.Refused), "BALANCE_OUT_OF_RANGE", false},
		"held: released":            {toHeld, "", nil, 0, "released", to(payment.Refused), rejected, false},
		"held: captured by another": {toHeld, "", nil, 0, "captured by another", to(payment.InReview), rejected, false},
		"held: no hold":             {toHeld, "", nil, 0, "", to(payment.InReview), rejected, false},
		"held: rejected":            {toHeld, beforeLedger, payment.ErrLedgerRejected, 0, "held", to(payment.InReview), rejected, false},
		"held: without a mandate":   {toHeld, beforeLedger, payment.ErrNoMandate, 0, "held", to(payment.InReview), rejected, false},
		"held: not asked":           {toHeld, beforeLedger, payment.ErrNotAsked, 0, "held", away, "", true},
		"held: no answer":           {toHeld, beforeLedger, none, 0, "held", to(payment.Unknown), "", true},
		"held: the answer is lost":  {toHeld, afterLedger, none, 0, "held", to(payment.Unknown), "", true},

		"unknown: posted":              {toUnknown, "", nil, 0, "held", to(payment.Posted), "", false},
		"unknown: posted before":       {toUnknown, "", nil, 0, "captured", to(payment.Posted), "", false},
		"unknown: accounts are away":   {toUnknown, atAccounts, none, 0, "held", away, "", true},
		"unknown: away, but posted":    {toUnknown, atAccounts, none, 0, "captured", away, "", true},
		"unknown: frozen":              {toUnknown, "frozen", nil, 0, "held", to(payment.Releasing, payment.Refused), "ACCOUNT_FROZEN", false},
		"unknown: closed":              {toUnknown, "closed", nil, 0, "held", to(payment.Releasing, payment.Refused), "ACCOUNT_CLOSED", false},
		"unknown: frozen, but posted":  {toUnknown, "frozen", nil, 0, "captured", to(payment.Releasing, payment.Posted), "", false},
		"unknown: too little":          {toUnknown, beforeLedger, payment.ErrInsufficientFunds, 0, "held", to(payment.Releasing, payment.Refused), "INSUFFICIENT_FUNDS", false},
		"unknown: out of range":        {toUnknown, beforeLedger, payment.ErrBalanceOutOfRange, 0, "held", to(payment.Releasing, payment.Refused), "BALANCE_OUT_OF_RANGE", false},
		"unknown: released":            {toUnknown, "", nil, 0, "released", to(payment.Refused), rejected, false},
		"unknown: captured by another": {toUnknown, "", nil, 0, "captured by another", to(payment.InReview), rejected, false},
		"unknown: no hold":             {toUnknown, "", nil, 0, "", to(payment.InReview), rejected, false},
		"unknown: rejected":            {toUnknown, beforeLedger, payment.ErrLedgerRejected, 0, "held", to(payment.InReview), rejected, false},
		"unknown: without a mandate":   {toUnknown, beforeLedger, payment.ErrNoMandate, 0, "captured", away, "", true},
		"unknown: not asked":           {toUnknown, beforeLedger, payment.ErrNotAsked, 0, "captured", away, "", true},
		"unknown: no answer":           {toUnknown, beforeLedger, none, 0, "held", away, "", true},

		"releasing: released":              {toReleasing, "", nil, 0, "held", to(payment.Refused), "REVIEW_REFUSED", false},
		"releasing: released before":       {toReleasing, "", nil, 0, "released", to(payment.Refused), "REVIEW_REFUSED", false},
		"releasing: no hold":               {toReleasing, "", nil, 0, "", to(payment.Refused), "REVIEW_REFUSED", false},
		"releasing: captured":              {toReleasing, "", nil, 0, "captured", to(payment.Posted), "", false},
		"releasing: captured by another":   {toReleasing, "", nil, 0, "captured by another", to(payment.InReview), rejected, false},
		"releasing: captured, not asked":   {toReleasing, beforeLedger, payment.ErrNotAsked, 0, "captured", away, "REVIEW_REFUSED", true},
		"releasing: captured, no mandate":  {toReleasing, beforeLedger, payment.ErrNoMandate, 0, "captured", away, "REVIEW_REFUSED", true},
		"releasing: captured, who is lost": {toReleasing, beforeLedger, none, 0, "captured", away, "REVIEW_REFUSED", true},
		"releasing: no answer":             {toReleasing, beforeRelease, none, 0, "held", away, "REVIEW_REFUSED", true},
		"releasing: the answer is lost":    {toReleasing, afterRelease, none, 0, "held", away, "REVIEW_REFUSED", true},
	}
}

func TestEachAnswerInEachState(t *testing.T) {
	t.Parallel()
	for name, c := range cells() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testCell(t, openBank(t), c)
		})
	}
}

func testCell(t *testing.T, b *bank, c cell) {
	t.Helper()
	process := b.startFor(t)
	p := stored(t, b, transfer("request-1", 100), c.way)
	b.given(p, c.ledger)
	b.decide = func(payment.Payment) payment.Verdict { return c.verdict }
	switch c.point {
	case "frozen":
		b.use("acc-bob", payment.Frozen)
	case "closed":
		b.use("acc-alice", payment.Closed)
	default:
		b.fault = func(_ context.Context, at, _ string) error {
			if at == c.point {
				return c.answer
			}
			return nil
		}
	}
	got, err := process.Create(t.Context(), p.Order)
	if err != nil {
		t.Fatal(err)
	}
	history, err := b.history(p)
	if err != nil {
		t.Fatal(err)
	}
	if got := history[1+len(c.way):]; fmt.Sprint(got) != fmt.Sprint(c.want) {
		t.Errorf("after %v: %v, want %v", c.way, got, c.want)
	}
	if last := history[len(history)-1]; got.State != last {
		t.Errorf("answered as %s, stored as %s", got.State, last)
	}
	if (c.code != "") != (len(got.Reasons) == 1) || c.code != "" && got.Reasons[0].Code != c.code {
		t.Errorf("reasons %v, want %q", got.Reasons, c.code)
	}
	if got.Unfinished() != c.left {
		t.Errorf("is taken up later: %t, want %t", got.Unfinished(), c.left)
	}
}

// A payment whose order nothing proves any more may have a hold that nobody here knows of. Refused by a person, it gives it free.
func TestWhatIsRefusedWithoutAMandateLeavesNoHold(t *testing.T) {
	t.Parallel()
	for name, given := range map[string]string{"the answer of its hold was lost": "held", "there was none": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openBank(t)
			process := b.startFor(t)
			p := stored(t, b, transfer("request-1", 100), []payment.State{payment.Assessed})
			b.given(p, given)
			b.fault = func(_ context.Context, at, _ string) error {
				if at == beforeReserve {
					return payment.ErrNoMandate
				}
				return nil
			}
			p, err := process.Create(t.Context(), p.Order)
			if err != nil || p.State != payment.InReview {
				t.Fatalf("%s (%v), want in review", p.State, err)
			}
			p, err = process.Review(t.Context(), p.ID, payment.Review{Version: p.Version, Decision: payment.Reject, By: "spiffe://bank.test/operator"})
			if err != nil || p.State != payment.Refused {
				t.Fatalf("%s (%v), want refused", p.State, err)
			}
			if h := b.hold(p.ID); h != nil && !h.released {
				t.Error("its hold is left")
			}
		})
	}
}

// stored stores a payment on its way to a state.
func stored(t *testing.T, b *bank, o payment.Order, way []payment.State) payment.Payment {
	t.Helper()
	now := time.Now().UTC().Truncate(time.Microsecond)
	id := o.Mandate.PaymentID
	if id == "" {
		id = payment.NewID()
	}
	p, err := b.observer.Create(t.Context(), payment.Payment{
		Order: o, ID: id, PayerCustomerID: "alice", State: payment.Created, Version: 1, CreateTime: now, UpdateTime: now,
	})
	b.store(p)
	for _, state := range way {
		if err != nil {
			break
		}
		step := payment.Step{To: state, Time: now}
		switch state {
		case payment.InReview:
			step.Reasons = payment.Because(payment.CodeRiskUnavailable)
		case payment.Releasing:
			step.Reasons = payment.Because(payment.CodeReviewRefused)
		default: // has none
		}
		p, err = b.observer.Advance(t.Context(), p, step)
		b.store(p)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// given makes the ledger have done something for a payment before.
func (b *bank) given(p payment.Payment, what string) {
	h := &hold{account: p.PayerAccountID, amount: p.Amount.MinorUnits}
	switch what {
	case "":
		return
	case "captured":
		h.captured = true
		b.book(p)
	case "captured by another":
		h.captured = true
	case "released":
		h.released = true
	}
	b.holds[p.ID] = h
}

// A deposit, and a transfer from before there were holds, are posted without one.
func TestEachAnswerToWhatIsPostedWithoutAHold(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]cell{
		"created: posted":                   {nil, "", nil, 0, "", []payment.State{payment.Posted}, "", false},
		"created: too little":               {nil, beforeLedger, payment.ErrInsufficientFunds, 0, "", []payment.State{payment.Refused}, "INSUFFICIENT_FUNDS", false},
		"created: out of range":             {nil, beforeLedger, payment.ErrBalanceOutOfRange, 0, "", []payment.State{payment.Refused}, "BALANCE_OUT_OF_RANGE", false},
		"created: rejected":                 {nil, beforeLedger, payment.ErrLedgerRejected, 0, "", []payment.State{payment.InReview}, "LEDGER_REJECTED", false},
		"created: no answer":                {nil, beforeLedger, errGone, 0, "", []payment.State{payment.Unknown}, "", true},
		"created: the answer is lost":       {nil, afterLedger, errGone, 0, "", []payment.State{payment.Unknown}, "", true},
		"created: a hold is not its matter": {nil, beforeLedger, payment.ErrHoldReleased, 0, "", []payment.State{payment.Unknown}, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openBank(t)
			for _, way := range [][]payment.State{nil, {payment.InReview, payment.Assessed}, {payment.Unknown}} {
				want := c.want
				if len(way) == 1 && want[0] == payment.Unknown {
					want = nil // it stays as it is
				}
				order := deposit(fmt.Sprintf("request-%d", len(way)), 100)
				p := stored(t, b, order, way)
				b.fault = func(_ context.Context, at, _ string) error {
					if at == c.point {
						return c.answer
					}
					return nil
				}
				process := b.startFor(t)
				got, err := process.Create(t.Context(), p.Order)
				history, errHistory := b.history(p)
				if err != nil || errHistory != nil {
					t.Fatal(err, errHistory)
				}
				if fmt.Sprint(history[1+len(way):]) != fmt.Sprint(want) || got.Unfinished() != c.left {
					t.Errorf("after %v: %v, taken up later: %t; want %v, %t", way, history[1+len(way):], got.Unfinished(), want, c.left)
				}
			}
		})
	}
}
