package machine

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

const (
	// askTimeout bounds how long one run of a payment asks others, retries of its calls included, and storeTimeout how long after that it may
	// take to store the answer.
	askTimeout   = 15 * time.Second
	storeTimeout = 10 * time.Second
	// readTimeout bounds each reading of what there is to do.
	readTimeout = 10 * time.Second
	// defaultPatience is how long a caller who stays waits for a run: what takes longer is answered as it stands, before the callers of
	// the caller lose patience.
	defaultPatience = 4 * time.Second
)

// Store keeps payments.
type Store interface {
	Orders
	Steps
	LateHolds
	// Review stores what a person decided on a payment in review, with the step that follows. The error is payment.ErrNotFound, or
	// payment.ErrNotInReview for a payment that is not, at the version that the person has seen, unless the same was decided on that version.
	Review(ctx context.Context, id string, review payment.Review) (payment.Payment, error)
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
	// Advance takes a payment one step further, unless it has another version by now, and returns it as it then is.
	Advance(ctx context.Context, seen payment.Payment, step payment.Step) (payment.Payment, error)
	// Unfinished returns at most limit payments under way after a position, and the position of the last.
	Unfinished(ctx context.Context, after int64, limit int) (ids []string, last int64, err error)
}

// LateHolds keeps which refused payments may have a hold all the same.
type LateHolds interface {
	// LateHolds returns at most limit of them, whose holds are to be released by now, in order, after one; the zero LateHold is before the
	// first.
	LateHolds(ctx context.Context, now time.Time, after payment.LateHold, limit int) ([]payment.LateHold, error)
	// HoldCame stores that there is a hold, which is to be released from a time on, unless that is known already.
	HoldCame(ctx context.Context, id string, due time.Time) error
	// Released stores that there is no hold any more.
	Released(ctx context.Context, id string) error
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

// Ledger posts payments, each once: asked again, it answers as things then are. Its definite answers are nil and the errors that each method
// names; any other error leaves open what it did. Of a customer's money it is asked to move it only with the customer's transaction token. The error is
// payment.ErrNotAsked while there is none to be had, and payment.ErrNoMandate when there will be none.
type Ledger interface {
	// Reserve sets a transfer's money aside. It returns nil also when its own capture has taken it, and payment.ErrInsufficientFunds,
	// ErrHoldReleased or ErrLedgerRejected.
	Reserve(ctx context.Context, p payment.Payment) error
	// Capture posts a transfer out of its hold. It returns payment.ErrInsufficientFunds, ErrBalanceOutOfRange, ErrHoldReleased,
	// ErrHoldCaptured by another one, ErrNoHold or ErrLedgerRejected.
	Capture(ctx context.Context, p payment.Payment) error
	// Release makes what is set aside available again. It returns payment.ErrNoHold or ErrHoldCaptured.
	Release(ctx context.Context, paymentID string) error
	// Post posts a payment without a hold. It returns payment.ErrInsufficientFunds, ErrBalanceOutOfRange or ErrLedgerRejected.
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
	patience   time.Duration
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

// WithPatience sets how long Create and Review wait for a payment before they answer it as it stands; 4 s by default.
func WithPatience(d time.Duration) Option { return func(m *Machine) { m.patience = d } }

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
		patience:   defaultPatience,
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

// now is the time in the precision that the store keeps.
func (m *Machine) now() time.Time { return m.clock().UTC().Truncate(time.Microsecond) }
