package machine_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/payments/internal/machine"
	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
	"github.com/countersign-mesh/countersign/services/payments/internal/store"
)

func TestMain(m *testing.M) {
	// Each check of the property restarts processes over a real file; what the command line says still wins.
	for name, value := range map[string]string{"rapid.checks": "15", "rapid.steps": "20"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(databasetest.Main{M: m})
}

// Where bank.fault is asked: "before" nothing has happened yet, "after" it has, but the answer gets lost.
const (
	atAccounts     = "accounts"
	beforeRisk     = "before risk"
	afterRisk      = "after risk"
	beforeReserve  = "before reserve"
	afterReserve   = "after reserve"
	beforeLedger   = "before ledger" // is asked to post, out of a hold or without
	afterLedger    = "after ledger"
	beforeRelease  = "before release"
	afterRelease   = "after release"
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
	dsn      string
	observer *store.Store
	longest  time.Duration // to wait before a payment is tried again
	log      slog.Handler
	ahead    atomic.Int64 // by how many nanoseconds the bank's clock is ahead of the real one
	fault    func(ctx context.Context, at, paymentID string) error
	refuse   func(p payment.Payment) error // the ledger's own answer to what it is asked to post
	decide   func(p payment.Payment) payment.Verdict

	mu       sync.Mutex
	accounts map[string]payment.Account
	verdicts map[string]payment.Verdict // by payment
	assessed int
	posted   map[string]payment.Payment // by payment; each changed the balances once
	holds    map[string]*hold           // by payment
	attempts map[string]int             // by payment
	balances map[string]int64
	changed  []string
	stored   map[string][]payment.State // by payment; the states that the database has taken
	wrong    []string                   // what nobody may do
}

// newBank returns a bank over a database, which it holds open until it is closed.
func newBank(dsn string) (*bank, error) {
	observer, err := store.Open(context.Background(), dsn)
	if err != nil {
		return nil, err
	}
	return &bank{
		dsn:      dsn,
		observer: observer,
		longest:  4 * time.Millisecond,
		log:      slog.DiscardHandler,
		fault:    func(context.Context, string, string) error { return nil },
		refuse:   func(payment.Payment) error { return nil },
		accounts: map[string]payment.Account{
			"acc-alice":  {CustomerID: "alice", CurrencyCode: "EUR", Status: payment.Open},
			"acc-bob":    {CustomerID: "bob", CurrencyCode: "EUR", Status: payment.Open},
			"acc-closed": {CustomerID: "bob", CurrencyCode: "EUR", Status: payment.Closed},
			"acc-frozen": {CustomerID: "bob", CurrencyCode: "EUR", Status: payment.Frozen},
			"acc-dollar": {CustomerID: "bob", CurrencyCode: "USD", Status: payment.Open},
		},
		decide:   func(payment.Payment) payment.Verdict { return payment.Allow },
		verdicts: map[string]payment.Verdict{},
		posted:   map[string]payment.Payment{},
		holds:    map[string]*hold{},
		attempts: map[string]int{},
		stored:   map[string][]payment.State{},
		balances: map[string]int64{"acc-alice": openingBalance},
	}, nil
}

// openBank returns a bank over a SQLite file. What somebody did there that nobody may do fails the test in the end.
func openBank(t *testing.T) *bank {
	t.Helper()
	return openBankOver(t, databasetest.SQLite(t))
}

func openBankOver(t *testing.T, dsn string) *bank {
	t.Helper()
	b, err := newBank(dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.observer.Close(); err != nil {
			t.Error(err)
		}
		for _, wrong := range b.wrong {
			t.Error(wrong)
		}
	})
	return b
}

func (b *bank) now() time.Time { return time.Now().Add(time.Duration(b.ahead.Load())) }

// use changes what an account may be used for.
func (b *bank) use(id string, status payment.AccountStatus) {
	b.mu.Lock()
	defer b.mu.Unlock()
	account := b.accounts[id]
	account.Status = status
	b.accounts[id] = account
}

// Account implements machine.Accounts.
func (b *bank) Account(ctx context.Context, id string) (payment.Account, error) {
	if err := b.fault(ctx, atAccounts, ""); err != nil {
		return payment.Account{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
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

// process is a machine over the bank's database, as a process of the service has it.
type process struct {
	*machine.Machine
	store *store.Store
	stop  func() error // Work, if it was started
}

func (b *bank) start() (*process, error) {
	s, err := store.Open(context.Background(), b.dsn)
	if err != nil {
		return nil, err
	}
	around := machine.Neighbours{Accounts: b, Risk: b, Ledger: b}
	m := machine.New(faultyStore{s, b}, around, b, machine.WithBackoff(time.Millisecond, b.longest), machine.WithLogger(slog.New(b.log)),
		machine.WithClock(b.now), machine.WithPatience(time.Minute))
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
func (b *bank) settle() error {
	return eventually(func() bool {
		ids, _, err := b.observer.Unfinished(context.Background(), 0, 1)
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
		Mandate: payment.Mandate{CustomerID: "alice", PaymentID: "pay-" + request, Transaction: "txn-" + request},
	}
}

func deposit(request string, cents int64) payment.Order {
	return payment.Order{
		Caller: "spiffe://bank.test/operator", RequestID: request, Kind: payment.CashDeposit,
		PayeeAccountID: "acc-alice", Amount: payment.Amount{CurrencyCode: "EUR", MinorUnits: cents},
	}
}
