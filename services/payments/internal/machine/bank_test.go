package machine_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/services/payments/internal/machine"
	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
	"github.com/countersign-mesh/countersign/services/payments/internal/store"
)

func TestMain(m *testing.M) {
	// Each check of the property restarts processes over a real file; what the command line says still wins.
	for name, value := range map[string]string{"rapid.checks": "20", "rapid.steps": "20"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

// Where bank.fault is asked: "before" nothing has happened yet, "after" it has, but the answer gets lost.
const (
	atAccounts     = "accounts"
	beforeRisk     = "before risk"
	afterRisk      = "after risk"
	beforeLedger   = "before ledger"
	afterLedger    = "after ledger"
	atByRequest    = "by request"
	beforeCreate   = "before create"
	afterCreate    = "after create"
	atGet          = "get"
	beforeAdvance  = "before advance"
	afterAdvance   = "after advance"
	openingBalance = 10_000
)

// bank is everything around a machine that outlives its process: neighbours that keep their word about idempotency, and the
// place of the database. fault, when it returns an error at some point, makes the call fail there.
type bank struct {
	path    string
	longest time.Duration // to wait before a payment is tried again
	log     slog.Handler
	fault   func(ctx context.Context, at, paymentID string) error

	mu       sync.Mutex
	accounts map[string]payment.Account
	decide   func(p payment.Payment) payment.Verdict
	verdicts map[string]payment.Verdict // by payment
	assessed int
	posted   map[string]payment.Payment // by payment; each changed the balances once
	attempts map[string]int             // by payment
	balances map[string]int64
	changed  []string
}

func newBank(dir string) *bank {
	return &bank{
		path:    filepath.Join(dir, "payments.db"),
		longest: 4 * time.Millisecond,
		log:     slog.DiscardHandler,
		fault:   func(context.Context, string, string) error { return nil },
		accounts: map[string]payment.Account{
			"acc-alice":  {CustomerID: "alice", CurrencyCode: "EUR", Open: true},
			"acc-bob":    {CustomerID: "bob", CurrencyCode: "EUR", Open: true},
			"acc-closed": {CustomerID: "bob", CurrencyCode: "EUR"},
			"acc-dollar": {CustomerID: "bob", CurrencyCode: "USD", Open: true},
		},
		decide:   func(payment.Payment) payment.Verdict { return payment.Allow },
		verdicts: map[string]payment.Verdict{},
		posted:   map[string]payment.Payment{},
		attempts: map[string]int{},
		balances: map[string]int64{"acc-alice": openingBalance},
	}
}

// Account implements machine.Accounts.
func (b *bank) Account(ctx context.Context, id string) (payment.Account, error) {
	if err := b.fault(ctx, atAccounts, ""); err != nil {
		return payment.Account{}, err
	}
	account, ok := b.accounts[id]
	if !ok {
		return payment.Account{}, payment.ErrNoAccount
	}
	return account, nil
}

// Assess implements machine.Risk.
func (b *bank) Assess(ctx context.Context, p payment.Payment) (payment.Verdict, []payment.Reason, error) {
	if err := b.fault(ctx, beforeRisk, p.ID); err != nil {
		return 0, nil, err
	}
	b.mu.Lock()
	b.assessed++
	verdict, ok := b.verdicts[p.ID]
	if !ok {
		verdict = b.decide(p)
		b.verdicts[p.ID] = verdict
	}
	b.mu.Unlock()
	if err := b.fault(ctx, afterRisk, p.ID); err != nil {
		return 0, nil, err
	}
	if verdict == payment.Allow {
		return verdict, nil, nil
	}
	return verdict, []payment.Reason{{Code: "AMOUNT_CEILING", Message: "too much"}}, nil
}

// Post implements machine.Ledger.
func (b *bank) Post(ctx context.Context, p payment.Payment) error {
	if err := b.fault(ctx, beforeLedger, p.ID); err != nil {
		return err
	}
	if err := b.book(p); err != nil {
		return err
	}
	return b.fault(ctx, afterLedger, p.ID)
}

func (b *bank) book(p payment.Payment) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.attempts[p.ID]++
	if _, ok := b.posted[p.ID]; ok {
		return nil
	}
	if p.Kind == payment.Transfer && b.balances[p.PayerAccountID] < p.Amount.MinorUnits {
		return payment.ErrInsufficientFunds
	}
	b.posted[p.ID] = p
	b.balances[p.PayerAccountID] -= p.Amount.MinorUnits
	b.balances[p.PayeeAccountID] += p.Amount.MinorUnits
	return nil
}

// Changed implements machine.News.
func (b *bank) Changed(ids ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changed = append(b.changed, ids...)
}

func (b *bank) postings() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.posted)
}

// faultyStore is a store whose calls fail where the bank says.
type faultyStore struct {
	*store.Store
	bank *bank
}

func (s faultyStore) ByRequest(ctx context.Context, o payment.Order) (payment.Payment, error) {
	if err := s.bank.fault(ctx, atByRequest, ""); err != nil {
		return payment.Payment{}, err
	}
	return s.Store.ByRequest(ctx, o)
}

func (s faultyStore) Create(ctx context.Context, p payment.Payment) (payment.Payment, error) {
	if err := s.bank.fault(ctx, beforeCreate, p.ID); err != nil {
		return payment.Payment{}, err
	}
	stored, err := s.Store.Create(ctx, p)
	return stored, errors.Join(err, s.bank.fault(ctx, afterCreate, p.ID))
}

func (s faultyStore) Get(ctx context.Context, id string) (payment.Payment, error) {
	if err := s.bank.fault(ctx, atGet, id); err != nil {
		return payment.Payment{}, err
	}
	return s.Store.Get(ctx, id)
}

func (s faultyStore) Advance(ctx context.Context, id string, from, to payment.State, reasons []payment.Reason, at time.Time) (payment.Payment, error) {
	if err := s.bank.fault(ctx, beforeAdvance, id); err != nil {
		return payment.Payment{}, err
	}
	stored, err := s.Store.Advance(ctx, id, from, to, reasons, at)
	return stored, errors.Join(err, s.bank.fault(ctx, afterAdvance, id))
}

// process is a machine over the bank's database, as a process of the service has it.
type process struct {
	*machine.Machine
	store *store.Store
	stop  func() error // Work, if it was started
}

func (b *bank) start() (*process, error) {
	s, err := store.Open(context.Background(), "sqlite:"+b.path)
	if err != nil {
		return nil, err
	}
	around := machine.Neighbours{Accounts: b, Risk: b, Ledger: b}
	m := machine.New(faultyStore{s, b}, around, b, machine.WithBackoff(time.Millisecond, b.longest), machine.WithLogger(slog.New(b.log)))
	return &process{Machine: m, store: s, stop: func() error { return nil }}, nil
}

// work starts the worker.
func (p *process) work() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Work(ctx) }()
	p.stop = func() error {
		cancel()
		return <-ended
	}
}

// end stops the process. What it was doing is left where it stands.
func (p *process) end() error {
	return errors.Join(p.stop(), p.Close(), p.store.Close())
}

func (b *bank) startFor(t *testing.T) *process {
	t.Helper()
	p, err := b.start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.end(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// settle waits until no payment is under way.
func (p *process) settle() error {
	return eventually(func() bool {
		ids, _, err := p.store.Unfinished(context.Background(), 0, 1)
		return err == nil && len(ids) == 0
	})
}

func eventually(holds func() bool) error {
	const bound = 20 * time.Second
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(bound); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			return fmt.Errorf("did not happen within %s", bound)
		}
	}
	return nil
}

func transfer(request string, cents int64) payment.Order {
	return payment.Order{
		Caller: "spiffe://bank.test/gateway", RequestID: request, Kind: payment.Transfer,
		PayerAccountID: "acc-alice", PayeeAccountID: "acc-bob", Amount: payment.Amount{CurrencyCode: "EUR", MinorUnits: cents},
	}
}

func deposit(request string, cents int64) payment.Order {
	return payment.Order{
		Caller: "spiffe://bank.test/operator", RequestID: request, Kind: payment.CashDeposit,
		PayeeAccountID: "acc-alice", Amount: payment.Amount{CurrencyCode: "EUR", MinorUnits: cents},
	}
}
