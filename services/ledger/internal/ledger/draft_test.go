package ledger_test

import (
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
)

var now = time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)

// pay is a transfer of EUR.
func pay(id, from, to string, minor int64) ledger.Transfer {
	return ledger.Transfer{ID: id, Postings: []ledger.Posting{{from, eur(-minor)}, {to, eur(minor)}}}
}

// capture is a transfer out of a hold.
func capture(id, hold, from, to string, minor int64) ledger.Transfer {
	t := pay(id, from, to, minor)
	t.HoldID = hold
	return t
}

func hold(id, account string, minor int64) ledger.Hold {
	return ledger.Hold{ID: id, Account: account, Amount: eur(minor)}
}

// books is a draft of books in which acc-a has 100 EUR, of which hold-a holds 60.
func books() *ledger.Draft {
	d := ledger.NewDraft()
	d.KnowBalance("acc-a", ledger.Balance{Money: eur(100), Held: 60})
	d.KnowBalance("bank-cash", ledger.Balance{Money: eur(-100)})
	d.KnowTransfer("deposit-a", ledger.Posted{Time: now.Add(-time.Hour), Digest: pay("deposit-a", "bank-cash", "acc-a", 100).Digest()})
	for id, state := range map[string]ledger.HoldState{"hold-a": ledger.HoldActive, "captured": ledger.HoldCaptured, "released": ledger.HoldReleased} {
		h := hold(id, "acc-a", 60)
		h.State = state
		d.KnowHold(h)
	}
	return d
}

func TestARefusedRequestLeavesTheDraftAsItWas(t *testing.T) {
	t.Parallel()
	post := func(transfer ledger.Transfer) func(*ledger.Draft) error {
		return func(d *ledger.Draft) error { _, err := d.Post(transfer, now); return err }
	}
	tests := map[string]struct {
		request func(*ledger.Draft) error
		want    error
	}{
		"more than is available":                      {post(pay("p-1", "acc-a", "acc-b", 41)), ledger.ErrInsufficientFunds},
		"a split whose last posting is too much":      {post(ledger.Transfer{ID: "p-1", Postings: []ledger.Posting{{"acc-b", eur(20)}, {"acc-c", eur(21)}, {"acc-a", eur(-41)}}}), ledger.ErrInsufficientFunds},
		"of an account without money":                 {post(pay("p-1", "acc-x", "acc-b", 1)), ledger.ErrInsufficientFunds},
		"other content under a used ID":               {post(pay("deposit-a", "bank-cash", "acc-a", 101)), ledger.ErrConflict},
		"the capture under an ID of a plain transfer": {post(capture("deposit-a", "hold-a", "bank-cash", "acc-a", 100)), ledger.ErrConflict},
		"a balance out of range":                      {post(pay("p-1", "bank-cash", "acc-b", ledger.MaxBalance)), ledger.ErrBalanceRange},
		"a balance that int64 cannot hold":            {post(pay("p-1", "bank-cash", "acc-b", math.MaxInt64)), ledger.ErrBalanceRange},
		"the capture of no hold":                      {post(capture("p-1", "hold-x", "acc-a", "acc-b", 1)), ledger.ErrNoHold},
		"the capture of a captured hold":              {post(capture("p-1", "captured", "acc-a", "acc-b", 1)), ledger.ErrHoldCaptured},
		"the capture of a released hold":              {post(capture("p-1", "released", "acc-a", "acc-b", 1)), ledger.ErrHoldReleased},
		"the capture of more than was held":           {post(capture("p-1", "hold-a", "acc-a", "acc-b", 61)), ledger.ErrInvalid},
		"the capture of more than int64 can turn":     {post(ledger.Transfer{ID: "p-1", HoldID: "hold-a", Postings: []ledger.Posting{{"acc-a", eur(math.MinInt64)}}}), ledger.ErrInvalid},
		"the capture by another account":              {post(capture("p-1", "hold-a", "bank-cash", "acc-a", 60)), ledger.ErrInvalid},
		"the capture in another currency":             {post(ledger.Transfer{ID: "p-1", HoldID: "hold-a", Postings: []ledger.Posting{{"acc-a", usd(-5)}, {"acc-b", usd(5)}}}), ledger.ErrInvalid},
		"a capture whose other side has not enough":   {post(ledger.Transfer{ID: "p-1", HoldID: "hold-a", Postings: []ledger.Posting{{"acc-a", eur(-5)}, {"acc-b", eur(-5)}, {"acc-c", eur(10)}}}), ledger.ErrInsufficientFunds},
		"a hold of more than is available":            {func(d *ledger.Draft) error { _, err := d.Reserve(hold("h-1", "acc-a", 41), now); return err }, ledger.ErrInsufficientFunds},
		"a hold in another currency": {func(d *ledger.Draft) error {
			_, err := d.Reserve(ledger.Hold{ID: "h-1", Account: "acc-a", Amount: usd(1)}, now)
			return err
		}, ledger.ErrInsufficientFunds},
		"a hold of an account without money":        {func(d *ledger.Draft) error { _, err := d.Reserve(hold("h-1", "acc-x", 1), now); return err }, ledger.ErrInsufficientFunds},
		"a hold of another amount under a used ID":  {func(d *ledger.Draft) error { _, err := d.Reserve(hold("hold-a", "acc-a", 59), now); return err }, ledger.ErrConflict},
		"a hold of another account under a used ID": {func(d *ledger.Draft) error { _, err := d.Reserve(hold("released", "acc-b", 60), now); return err }, ledger.ErrConflict},
		"the release of no hold":                    {func(d *ledger.Draft) error { _, err := d.Release("hold-x", now); return err }, ledger.ErrNoHold},
		"the release of a captured hold":            {func(d *ledger.Draft) error { _, err := d.Release("captured", now); return err }, ledger.ErrHoldCaptured},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := books()
			if err := tt.request(d); !errors.Is(err, tt.want) {
				t.Fatalf("the request = %v, want %v", err, tt.want)
			}
			if diff := cmp.Diff(ledger.Changes{}, d.Changes()); diff != "" {
				t.Errorf("it left changes (-want +got):\n%s", diff)
			}
			// What was available still is, to the cent, and the ID is not used up.
			if _, err := d.Post(pay("p-1", "acc-a", "acc-b", 40), now); err != nil {
				t.Errorf("what is available cannot be spent: %v", err)
			}
			if _, err := d.Post(capture("p-2", "hold-a", "acc-a", "acc-b", 60), now); err != nil {
				t.Errorf("what is held cannot be captured: %v", err)
			}
		})
	}
}

func TestARepetitionChangesNothing(t *testing.T) {
	t.Parallel()
	d := books()
	first, err := d.Post(pay("deposit-a", "bank-cash", "acc-a", 100), now)
	if err != nil || !first.Time.Equal(now.Add(-time.Hour)) {
		t.Errorf("a transfer that is in the books = %v, %v; want its time", first, err)
	}
	for id, want := range map[string]ledger.HoldState{"hold-a": ledger.HoldActive, "captured": ledger.HoldCaptured, "released": ledger.HoldReleased} {
		if h, err := d.Reserve(hold(id, "acc-a", 60), now); err != nil || h.State != want {
			t.Errorf("hold %s again = %v, %v; want it %v", id, h, err, want)
		}
	}
	if h, err := d.Release("released", now); err != nil || h.State != ledger.HoldReleased {
		t.Errorf("a second release = %v, %v", h, err)
	}
	if diff := cmp.Diff(ledger.Changes{}, d.Changes()); diff != "" {
		t.Errorf("it left changes (-want +got):\n%s", diff)
	}
}

func TestAConflictTellsTheFirstDigest(t *testing.T) {
	t.Parallel()
	d := books()
	_, err := d.Post(pay("deposit-a", "bank-cash", "acc-b", 100), now)
	want := &ledger.ConflictError{Kind: "transfer", Digest: pay("deposit-a", "bank-cash", "acc-a", 100).Digest()}
	if got, ok := errors.AsType[*ledger.ConflictError](err); !ok || *got != *want {
		t.Errorf("Post = %v, want %v", err, want)
	}
	_, err = d.Reserve(hold("hold-a", "acc-b", 60), now)
	want = &ledger.ConflictError{Kind: "hold", Digest: hold("hold-a", "acc-a", 60).Digest()}
	if got, ok := errors.AsType[*ledger.ConflictError](err); !ok || *got != *want {
		t.Errorf("Reserve = %v, want %v", err, want)
	}
}

func TestRequestsOfABatchSeeThoseBeforeThem(t *testing.T) {
	t.Parallel()
	d := books()
	steps := []struct {
		name string
		do   func() error
		want error
	}{
		{"b has nothing yet", func() error { _, err := d.Post(pay("p-1", "acc-b", "acc-c", 30), now); return err }, ledger.ErrInsufficientFunds},
		{"a pays b", func() error { _, err := d.Post(pay("p-2", "acc-a", "acc-b", 40), now); return err }, nil},
		{"b spends it", func() error { _, err := d.Post(pay("p-1", "acc-b", "acc-c", 30), now); return err }, nil},
		{"the same again", func() error { _, err := d.Post(pay("p-1", "acc-b", "acc-c", 30), now.Add(time.Hour)); return err }, nil},
		{"its ID for another", func() error { _, err := d.Post(pay("p-1", "acc-b", "acc-c", 5), now); return err }, ledger.ErrConflict},
		{"c sets 20 aside", func() error { _, err := d.Reserve(hold("h-1", "acc-c", 20), now); return err }, nil},
		{"c has 10 left", func() error { _, err := d.Post(pay("p-3", "acc-c", "acc-b", 11), now); return err }, ledger.ErrInsufficientFunds},
		{"a part is captured", func() error { _, err := d.Post(capture("p-4", "h-1", "acc-c", "acc-b", 15), now); return err }, nil},
		{"the rest is available", func() error { _, err := d.Reserve(hold("h-2", "acc-c", 15), now); return err }, nil},
		{"a hold of the books is released", func() error { _, err := d.Release("hold-a", now); return err }, nil},
		{"it cannot be captured then", func() error { _, err := d.Post(capture("p-5", "hold-a", "acc-a", "acc-b", 60), now); return err }, ledger.ErrHoldReleased},
		{"but spent", func() error { _, err := d.Post(pay("p-5", "acc-a", "acc-b", 60), now); return err }, nil},
	}
	for _, step := range steps {
		if err := step.do(); !errors.Is(err, step.want) {
			t.Fatalf("%s: %v, want %v", step.name, err, step.want)
		}
	}
	c := d.Changes()
	var ids []string
	for _, p := range c.Transfers {
		ids = append(ids, p.ID)
		if p.Posted.Digest != p.Transfer.Digest() || !p.Time.Equal(now) {
			t.Errorf("%s was posted as %v", p.ID, p.Posted)
		}
	}
	if diff := cmp.Diff([]string{"p-2", "p-1", "p-4", "p-5"}, ids); diff != "" {
		t.Errorf("transfers (-want +got):\n%s", diff)
	}
	wantMade := []ledger.Hold{
		{ID: "h-1", Account: "acc-c", Amount: eur(20), State: ledger.HoldCaptured, TransferID: "p-4", CreateTime: now, EndTime: now},
		{ID: "h-2", Account: "acc-c", Amount: eur(15), State: ledger.HoldActive, CreateTime: now},
	}
	wantEnded := []ledger.Hold{{ID: "hold-a", Account: "acc-a", Amount: eur(60), State: ledger.HoldReleased, EndTime: now}}
	if diff := cmp.Diff([][]ledger.Hold{wantMade, wantEnded}, [][]ledger.Hold{c.Made, c.Ended}); diff != "" {
		t.Errorf("holds (-want +got):\n%s", diff)
	}
	wantBalances := []ledger.AccountBalance{
		{"acc-a", ledger.Balance{Money: eur(0)}}, {"acc-b", ledger.Balance{Money: eur(85)}}, {"acc-c", ledger.Balance{Money: eur(15), Held: 15}},
	}
	if diff := cmp.Diff(wantBalances, c.Balances); diff != "" {
		t.Errorf("balances (-want +got):\n%s", diff)
	}
	after := make(map[string][]int64)
	for _, e := range c.Entries {
		after[e.Account] = append(after[e.Account], e.BalanceAfter.Minor)
	}
	if diff := cmp.Diff(map[string][]int64{"acc-a": {60, 0}, "acc-b": {40, 10, 25, 85}, "acc-c": {30, 15}}, after); diff != "" {
		t.Errorf("balances after the entries (-want +got):\n%s", diff)
	}
}

func TestAHoldIsValidated(t *testing.T) {
	t.Parallel()
	if err := hold("hold-1", "acc-a", 1).Validate(); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string]ledger.Hold{
		"no ID":                    hold("", "acc-a", 1),
		"one of the bank's own":    hold("hold-1", "bank-cash", 1),
		"nothing":                  hold("hold-1", "acc-a", 0),
		"less than nothing":        hold("hold-1", "acc-a", -1),
		"an account with a NUL":    hold("hold-1", "acc-a\x00", 1),
		"an ID that is not UTF-8":  hold("hold-\xff", "acc-a", 1),
		"a currency with an error": {ID: "hold-1", Account: "acc-a", Amount: ledger.Money{Currency: "\xc3", Minor: 1}},
	} {
		if err := bad.Validate(); !errors.Is(err, ledger.ErrInvalid) {
			t.Errorf("%s: Validate = %v, want ErrInvalid", name, err)
		}
	}
}

func TestHoldDigestsTellContentsApart(t *testing.T) {
	t.Parallel()
	seen := make(map[[32]byte]int)
	for i, h := range []ledger.Hold{
		hold("hold-1", "acc-a", 1),
		hold("hold-2", "acc-a", 1),
		hold("hold-1", "acc-b", 1),
		hold("hold-1", "acc-a", 11),
		hold("hold-1a", "cc-a", 1),
		{ID: "hold-1", Account: "acc-a", Amount: usd(1)},
	} {
		if first, ok := seen[h.Digest()]; ok {
			t.Errorf("holds %d and %d have one digest", first, i)
		}
		seen[h.Digest()] = i
	}
	ended := hold("hold-1", "acc-a", 1)
	ended.State, ended.TransferID, ended.EndTime = ledger.HoldCaptured, "p-1", now
	if ended.Digest() != hold("hold-1", "acc-a", 1).Digest() {
		t.Error("what became of a hold changes its digest")
	}
}

func TestHoldStatesHaveNames(t *testing.T) {
	t.Parallel()
	for _, s := range []ledger.HoldState{ledger.HoldActive, ledger.HoldCaptured, ledger.HoldReleased} {
		if got, err := ledger.ParseHoldState(s.String()); got != s || err != nil {
			t.Errorf("ParseHoldState(%q) = %v, %v", s, got, err)
		}
	}
	if _, err := ledger.ParseHoldState(ledger.HoldState(0).String()); !errors.Is(err, ledger.ErrDamaged) {
		t.Errorf("the zero state has a name: %v", err)
	}
	if slices.Contains([]string{"active", "captured", "released"}, ledger.HoldState(4).String()) {
		t.Error("an unknown state has a known name")
	}
}
