// Package machine carries payments from state to state.
//
// A payment that is stored is never given up: a caller who leaves merely stops waiting for it, and one that could not be
// finished, because a neighbour was away or the process ended, is taken up again by Work. Taking a step twice is safe, because
// risk and the ledger both know a payment by its ID and answer a repeated question as they did first.
package machine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// defaultRunTimeout bounds how long one run of a payment may take, retries of its calls included.
const defaultRunTimeout = 15 * time.Second

// Store keeps payments.
type Store interface {
	Orders
	Steps
}

// Orders finds and stores what callers ask for.
type Orders interface {
	// ByRequest returns the payment that an order's caller made with its request ID, payment.ErrNotFound when there is none and
	// payment.ErrRequestReused when that was for other content.
	ByRequest(ctx context.Context, order payment.Order) (payment.Payment, error)
	// Create stores a payment; when its request ID is known, it answers like ByRequest instead.
	Create(ctx context.Context, p payment.Payment) (payment.Payment, error)
}

// Steps keeps how far payments have come.
type Steps interface {
	// Get returns one payment, or payment.ErrNotFound.
	Get(ctx context.Context, id string) (payment.Payment, error)
	// Advance moves a payment from one state to the next, unless it is no longer in the first, and returns it as it then is.
	Advance(ctx context.Context, id string, from, to payment.State, reasons []payment.Reason, at time.Time) (payment.Payment, error)
	// Unfinished returns at most limit payments under way after a position, and the position of the last.
	Unfinished(ctx context.Context, after int64, limit int) (ids []string, last int64, err error)
}

// Accounts knows accounts.
type Accounts interface {
	// Account returns an account. The error is payment.ErrNoAccount when there is none, and wraps payment.ErrAway when nobody answers.
	Account(ctx context.Context, accountID string) (payment.Account, error)
}

// Risk assesses payments, each once: asked again, it gives its first verdict.
type Risk interface {
	Assess(ctx context.Context, p payment.Payment) (payment.Verdict, []payment.Reason, error)
}

// Ledger posts payments, each once. When nothing was posted and nothing will be, the error is payment.ErrInsufficientFunds,
// payment.ErrBalanceOutOfRange or wraps payment.ErrLedgerRejected. Any other error leaves open whether it was posted.
type Ledger interface {
	Post(ctx context.Context, p payment.Payment) error
}

// News is told which accounts' payments have changed.
type News interface {
	Changed(accountIDs ...string)
}

// Neighbours are the services that a payment needs.
type Neighbours struct {
	Accounts Accounts
	Risk     Risk
	Ledger   Ledger
}

// Machine makes and runs payments. It is safe for concurrent use. It must be closed.
type Machine struct {
	store      Store
	neighbours Neighbours
	news       News
	log        *slog.Logger
	clock      func() time.Time
	runTimeout time.Duration
	backoff    backoff

	life   context.Context //nolint:containedctx // of all runs, which outlive the calls that started them; ended by Close
	cancel context.CancelFunc
	wake   chan struct{} // tells Work that something was left unfinished

	mu      sync.Mutex
	closed  bool
	runs    map[string]*run  // by payment
	retries map[string]retry // by payment; of those whose last run did not finish them
	group   sync.WaitGroup
}

// Option changes a default of New.
type Option func(*Machine)

// WithClock sets the clock that stamps states; time.Now by default.
func WithClock(now func() time.Time) Option { return func(m *Machine) { m.clock = now } }

// WithLogger sets where unfinished runs are logged; slog.Default by default.
func WithLogger(log *slog.Logger) Option { return func(m *Machine) { m.log = log } }

// WithBackoff sets the shortest and the longest wait before an unfinished payment is tried again; 500 ms and 30 s by default.
func WithBackoff(least, most time.Duration) Option {
	return func(m *Machine) { m.backoff = backoff{least: least, most: most} }
}

// New returns a Machine.
func New(store Store, neighbours Neighbours, news News, opts ...Option) *Machine {
	m := &Machine{
		store:      store,
		neighbours: neighbours,
		news:       news,
		log:        slog.Default(),
		clock:      time.Now,
		runTimeout: defaultRunTimeout,
		backoff:    backoff{least: 500 * time.Millisecond, most: 30 * time.Second},
		wake:       make(chan struct{}, 1),
		runs:       map[string]*run{},
		retries:    map[string]retry{},
	}
	// Runs outlive the calls that started them, so their life is the machine's own.
	m.life, m.cancel = context.WithCancel(context.Background())
	for _, opt := range opts {
		opt(m)
	}
	return m
}

// Close ends all runs where they stand and waits for them. What they had stored is enough to go on from.
func (m *Machine) Close() error {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.cancel()
	m.group.Wait()
	return nil
}

// Create makes a payment and runs it as far as it goes. The same order again answers the same payment. The error is
// payment.ErrOutcomeUnknown when the payment goes on by itself, or may, and ctx's own when the caller did not wait.
func (m *Machine) Create(ctx context.Context, order payment.Order) (payment.Payment, error) {
	p, err := m.store.ByRequest(ctx, order)
	if errors.Is(err, payment.ErrNotFound) {
		p, err = m.begin(ctx, order)
	}
	if err != nil {
		return payment.Payment{}, err
	}
	if !p.State.Unfinished() {
		return p, nil
	}
	return m.start(ctx, p.ID).wait(ctx)
}

// begin checks that both sides may take part, and stores the payment.
func (m *Machine) begin(ctx context.Context, order payment.Order) (payment.Payment, error) {
	now := m.now()
	p := payment.Payment{Order: order, ID: payment.NewID(), State: payment.Created, CreateTime: now, UpdateTime: now}
	if order.Kind == payment.Transfer {
		payer, err := m.participant(ctx, "paying", order.PayerAccountID, order.Amount)
		if err != nil {
			return payment.Payment{}, err
		}
		p.PayerCustomerID = payer.CustomerID
	}
	if _, err := m.participant(ctx, "paid", order.PayeeAccountID, order.Amount); err != nil {
		return payment.Payment{}, err
	}
	stored, err := m.store.Create(ctx, p)
	if err != nil {
		// A caller who left during the commit leaves open whether the payment is stored. Work finds out.
		m.wakeWork()
		return payment.Payment{}, err
	}
	m.news.Changed(stored.Accounts()...)
	return stored, nil
}

func (m *Machine) participant(ctx context.Context, side, accountID string, amount payment.Amount) (payment.Account, error) {
	account, err := m.neighbours.Accounts.Account(ctx, accountID)
	if err == nil {
		err = account.Accepts(amount)
	}
	switch {
	case err == nil:
		return account, nil
	case errors.Is(err, payment.ErrNoAccount), errors.Is(err, payment.ErrAccountClosed), errors.Is(err, payment.ErrOtherCurrency):
		return payment.Account{}, &payment.AccountError{Side: side, Err: err}
	default:
		return payment.Account{}, fmt.Errorf("check the %s account: %w", side, err)
	}
}

// now is the time in the precision that the store keeps.
func (m *Machine) now() time.Time { return m.clock().UTC().Truncate(time.Microsecond) }
