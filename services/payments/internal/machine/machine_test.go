package machine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

var errGone = errors.New("the other end is gone")

func TestCreate(t *testing.T) {
	t.Parallel()
	tooMuch := []payment.Reason{{Code: "AMOUNT_CEILING", Message: "too much"}}
	noMoney := []payment.Reason{{Code: "INSUFFICIENT_FUNDS", Message: "there is not enough money in the account"}}
	for name, test := range map[string]struct {
		order    payment.Order
		verdict  payment.Verdict
		state    payment.State
		reasons  []payment.Reason
		postings int
	}{
		"a transfer that risk allows is posted":              {transfer("request-1", 100), payment.Allow, payment.Posted, nil, 1},
		"a transfer that risk refuses is not":                {transfer("request-1", 100), payment.Refuse, payment.Refused, tooMuch, 0},
		"a transfer that risk holds is not":                  {transfer("request-1", 100), payment.Hold, payment.InReview, tooMuch, 0},
		"a transfer of more than the account has is refused": {transfer("request-1", openingBalance+1), payment.Allow, payment.Refused, noMoney, 0},
		"a deposit is posted, whatever risk would say":       {deposit("request-1", 100), payment.Refuse, payment.Posted, nil, 1},
		"a transfer of everything empties the account":       {transfer("request-1", openingBalance), payment.Allow, payment.Posted, nil, 1},
		"a deposit of more than there is in cash is taken":   {deposit("request-1", 1_000_000), payment.Allow, payment.Posted, nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openBank(t)
			b.decide = func(payment.Payment) payment.Verdict { return test.verdict }
			p, err := b.startFor(t).Create(t.Context(), test.order)
			if err != nil {
				t.Fatal(err)
			}
			if p.State != test.state {
				t.Errorf("state %s, want %s", p.State, test.state)
			}
			if diff := cmp.Diff(test.reasons, p.Reasons); diff != "" {
				t.Errorf("reasons: -want +got:\n%s", diff)
			}
			if got := b.postings(); got != test.postings {
				t.Errorf("%d transfers in the ledger, want %d", got, test.postings)
			}
		})
	}
}

// What the ledger has said no to for good is not tried again.
func TestADefiniteAnswerOfTheLedgerEndsAPayment(t *testing.T) {
	t.Parallel()
	const tooLarge, look = "a balance would become larger than the bank can keep", "the bank has to look at this payment"
	for name, test := range map[string]struct {
		answer error
		order  payment.Order
		state  payment.State
		reason payment.Reason
		log    string
	}{
		"a transfer after which a balance is too large": {payment.ErrBalanceOutOfRange, transfer("request-1", 100), payment.Refused, payment.Reason{Code: "BALANCE_OUT_OF_RANGE", Message: tooLarge}, ""},
		"a deposit after which a balance is too large":  {payment.ErrBalanceOutOfRange, deposit("request-1", 100), payment.Refused, payment.Reason{Code: "BALANCE_OUT_OF_RANGE", Message: tooLarge}, ""},
		"a transfer that the books can never take":      {payment.ErrLedgerRejected, transfer("request-1", 100), payment.InReview, payment.Reason{Code: "LEDGER_REJECTED", Message: look}, "level=ERROR"},
		"a deposit that the books can never take":       {payment.ErrLedgerRejected, deposit("request-1", 100), payment.InReview, payment.Reason{Code: "LEDGER_REJECTED", Message: look}, "level=ERROR"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openBank(t)
			var log bytes.Buffer
			b.log = slog.NewTextHandler(&log, nil)
			b.fault = func(_ context.Context, at, _ string) error {
				if at == beforeLedger {
					return fmt.Errorf("the ledger: %w", test.answer)
				}
				return nil
			}
			p, err := b.startFor(t).Create(t.Context(), test.order)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]payment.Reason{test.reason}, p.Reasons); p.State != test.state || diff != "" {
				t.Errorf("state %s, want %s; reasons: -want +got:\n%s", p.State, test.state, diff)
			}
			if !strings.Contains(log.String(), test.log) || (test.log == "" && log.Len() > 0) {
				t.Errorf("log %q, want %q in it", log.String(), test.log)
			}
		})
	}
}

func TestAccountsThatCannotTakePartLeaveNoPayment(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*payment.Order)
		want   error
		text   string
	}{
		"the payer does not exist":     {func(o *payment.Order) { o.PayerAccountID = "acc-x" }, payment.ErrNoAccount, "the paying account does not exist"},
		"the payee does not exist":     {func(o *payment.Order) { o.PayeeAccountID = "acc-x" }, payment.ErrNoAccount, "the paid account does not exist"},
		"the payer is closed":          {func(o *payment.Order) { o.PayerAccountID = "acc-closed" }, payment.ErrAccountClosed, "the paying account is closed"},
		"the payee is closed":          {func(o *payment.Order) { o.PayeeAccountID = "acc-closed" }, payment.ErrAccountClosed, "the paid account is closed"},
		"the payer is frozen":          {func(o *payment.Order) { o.PayerAccountID = "acc-frozen" }, payment.ErrAccountFrozen, "the paying account is frozen"},
		"the payee is frozen":          {func(o *payment.Order) { o.PayeeAccountID = "acc-frozen" }, payment.ErrAccountFrozen, "the paid account is frozen"},
		"the payer has other currency": {func(o *payment.Order) { o.PayerAccountID = "acc-dollar" }, payment.ErrOtherCurrency, "the paying account is of another currency"},
		"the payee has other currency": {func(o *payment.Order) { o.PayeeAccountID = "acc-dollar" }, payment.ErrOtherCurrency, "the paid account is of another currency"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openBank(t)
			p := b.startFor(t)
			o := transfer("request-1", 100)
			test.change(&o)
			_, err := p.Create(t.Context(), o)
			refused, ok := errors.AsType[*payment.AccountError](err)
			if !ok || !errors.Is(err, test.want) || refused.Error() != test.text {
				t.Errorf("%v, want %q", err, test.text)
			}
			if _, err := p.store.ByRequest(t.Context(), o); !errors.Is(err, payment.ErrNotFound) {
				t.Errorf("a payment was stored: %v", err)
			}
			if b.assessed != 0 || b.postings() != 0 {
				t.Error("risk or the ledger was asked")
			}
		})
	}
}

func TestAnAccountsServiceThatIsAwayLeavesNoPayment(t *testing.T) {
	t.Parallel()
	b := openBank(t)
	b.fault = func(_ context.Context, at, _ string) error {
		if at == atAccounts {
			return payment.ErrAway
		}
		return nil
	}
	p := b.startFor(t)
	if _, err := p.Create(t.Context(), transfer("request-1", 100)); !errors.Is(err, payment.ErrAway) {
		t.Errorf("%v, want ErrAway", err)
	}
	if _, err := p.store.ByRequest(t.Context(), transfer("request-1", 100)); !errors.Is(err, payment.ErrNotFound) {
		t.Errorf("a payment was stored: %v", err)
	}
}

// ATTACKS 62.
func TestManyWithTheSameRequestMakeOnePayment(t *testing.T) {
	t.Parallel()
	b := openBank(t)
	p := b.startFor(t)
	got := make([]payment.Payment, 64)
	var group sync.WaitGroup
	for i := range got {
		group.Go(func() {
			var err error
			if got[i], err = p.Create(context.Background(), transfer("request-1", 100)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for _, one := range got {
		if diff := cmp.Diff(got[0], one); diff != "" {
			t.Fatalf("two answers to one request: -one +other:\n%s", diff)
		}
	}
	if b.assessed != 1 || b.attempts[got[0].ID] != 1 {
		t.Errorf("risk was asked %d times and the ledger %d times, want once each", b.assessed, b.attempts[got[0].ID])
	}
	if b.balances["acc-bob"] != 100 {
		t.Errorf("bob has %d, want 100", b.balances["acc-bob"])
	}
}

// ATTACKS 63.
func TestPaymentsAtOnceNeverSpendMoreThanThereIs(t *testing.T) {
	t.Parallel()
	b := openBank(t)
	p := b.startFor(t)
	var group sync.WaitGroup
	for i := range 32 {
		group.Go(func() {
			if _, err := p.Create(context.Background(), transfer(fmt.Sprintf("request-%d", i), openingBalance/8)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	page, err := p.store.List(t.Context(), "acc-alice", 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	states := map[payment.State]int{}
	for _, one := range page.Payments {
		states[one.State]++
	}
	if diff := cmp.Diff(map[payment.State]int{payment.Posted: 8, payment.Refused: 24}, states); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// ATTACKS 62.
func TestARequestUsedForOtherContentIsRefused(t *testing.T) {
	t.Parallel()
	p := openBank(t).startFor(t)
	if _, err := p.Create(t.Context(), transfer("request-1", 100)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Create(t.Context(), transfer("request-1", 101)); !errors.Is(err, payment.ErrRequestReused) {
		t.Errorf("%v, want ErrRequestReused", err)
	}
}

func TestACallerWhoLeavesDoesNotStopThePayment(t *testing.T) {
	t.Parallel()
	for _, at := range []string{beforeRisk, afterRisk, beforeReserve, afterReserve, beforeLedger, afterLedger} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			b := openBank(t)
			reached, goOn := make(chan struct{}), make(chan struct{})
			b.fault = func(ctx context.Context, here, _ string) error {
				if here == at {
					close(reached)
					<-goOn
					return ctx.Err()
				}
				return nil
			}
			p := b.startFor(t)
			ctx, leave := context.WithCancel(t.Context())
			left := make(chan error, 1)
			go func() {
				_, err := p.Create(ctx, transfer("request-1", 100))
				left <- err
			}()
			<-reached
			leave()
			if err := <-left; !errors.Is(err, context.Canceled) {
				t.Errorf("the caller got %v, want context.Canceled", err)
			}
			close(goOn)
			// Nobody works off what is left here: the one run goes through.
			if err := b.settle(); err != nil {
				t.Fatal(err)
			}
			if b.postings() != 1 {
				t.Errorf("%d transfers in the ledger, want 1", b.postings())
			}
		})
	}
}

func TestCloseWaitsForRunsAndEndsThem(t *testing.T) {
	t.Parallel()
	b := openBank(t)
	reached := make(chan struct{})
	b.fault = func(ctx context.Context, at, _ string) error {
		if at == beforeRisk {
			close(reached)
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	p := b.startFor(t)
	answer := make(chan payment.Payment, 1)
	go func() {
		created, err := p.Create(context.Background(), transfer("request-1", 100))
		if err != nil {
			t.Error(err)
		}
		answer <- created
	}()
	<-reached
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if created := <-answer; created.State != payment.Created {
		t.Errorf("the caller got a payment that is %s, want created", created.State)
	}
	if again, err := p.Create(t.Context(), transfer("request-1", 100)); err != nil || again.State != payment.Created {
		t.Errorf("after Close: %s (%v), want created", again.State, err)
	}
	got, err := p.store.ByRequest(t.Context(), transfer("request-1", 100))
	if err != nil || got.State != payment.Created {
		t.Errorf("state %s (%v), want created", got.State, err)
	}
}
