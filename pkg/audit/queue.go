package audit

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// Defaults of NewQueue, and bounds of its worker.
const (
	defaultCapacity     = 8192
	defaultBatch        = 256
	defaultDelay        = 100 * time.Millisecond
	defaultFlushTimeout = 3 * time.Second
	// maxBatch keeps a request of the longest records below the 4 MiB that a gRPC server takes by default.
	maxBatch = 500
	// ackTimeout is how long the service may leave records unacknowledged before it is taken for dead.
	ackTimeout = 10 * time.Second
	// A stream that failed is opened again after minBackoff, then twice that, up to maxBackoff.
	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// Queue is a Recorder that sends decisions to the audit service, from memory, in the order they were made. It is safe for
// concurrent use. The zero value is not usable; see NewQueue.
//
// The queue is bounded. A decision that finds no room is counted as lost, and the count takes the place of the lost
// decisions in the order as soon as there is room: something may be missing from the audit trail, but never unnoticed. Allowed
// decisions find no room once three quarters of the queue are taken; the last quarter is kept for denied ones, so that a
// flood of good calls cannot hide a bad one.
type Queue struct {
	client auditv1.AuditServiceClient
	options
	runID string

	// wake tells the worker that a first record waits, or that a batch is full; progress that records were acknowledged.
	wake     chan struct{}
	progress chan struct{}

	mu sync.Mutex
	// A record's sequence is its place in ring, modulo the length: acked ≤ sent ≤ last, and last-acked records are kept.
	// A slot is written once when its record is queued, and next when the record was acknowledged: the worker reads it
	// without the lock meanwhile.
	ring              []entry
	acked, sent, last int64
	// pending counts the decisions that were lost since the last record was queued.
	pending gap
	// suspect is the last record of those among which the service refused one; up to it they are sent one by one.
	suspect int64
	// watchdog ends a stream on which nothing was acknowledged for too long.
	watchdog *time.Timer
	lost     int64
	err      error
	failures int // in a row
}

// entry is a record: the decision, or the gap when there is one.
type entry struct {
	decision Decision
	gap      *gap
}

// gap stands for decisions that were lost.
type gap struct {
	count      int64
	start, end time.Time
	// logged is the worker's.
	logged bool
}

// add counts one more that was lost.
func (g *gap) add(at time.Time) {
	if g.count == 0 {
		g.start = at
	}
	g.count++
	g.end = at
}

// Option changes a default of NewQueue.
type Option func(*options)

type options struct {
	capacity     int
	batch        int
	delay        time.Duration
	flushTimeout time.Duration
	log          *slog.Logger
}

// WithCapacity sets how many records are kept until the audit service has stored them; 8192 by default, 8 at least.
func WithCapacity(n int) Option { return func(o *options) { o.capacity = max(n, 8) } }

// WithBatch sets how many records are sent at once (256 by default, 500 at most), and how long a record waits for others to be
// sent with (100 ms by default).
func WithBatch(n int, delay time.Duration) Option {
	return func(o *options) { o.batch, o.delay = min(max(n, 1), maxBatch), delay }
}

// WithFlushTimeout bounds how long Run goes on after its context has ended, to send what is left; 3 s by default.
func WithFlushTimeout(d time.Duration) Option { return func(o *options) { o.flushTimeout = d } }

// WithLogger sets where lost decisions and failures of the stream are logged; slog.Default by default.
func WithLogger(log *slog.Logger) Option { return func(o *options) { o.log = log } }

// NewQueue returns a queue that sends to client while Run runs. Records may be queued before.
func NewQueue(client auditv1.AuditServiceClient, opts ...Option) *Queue {
	o := options{
		capacity:     defaultCapacity,
		batch:        defaultBatch,
		delay:        defaultDelay,
		flushTimeout: defaultFlushTimeout,
		log:          slog.Default(),
	}
	for _, opt := range opts {
		opt(&o)
	}
	var run [16]byte
	_, _ = rand.Read(run[:]) // never fails: crypto/rand ends the process instead
	return &Queue{
		client:   client,
		options:  o,
		runID:    hex.EncodeToString(run[:]),
		wake:     make(chan struct{}, 1),
		progress: make(chan struct{}, 1),
		ring:     make([]entry, o.capacity),
	}
}

// Record queues d. It never blocks and does not allocate.
func (q *Queue) Record(d Decision) {
	shorten(&d.Method)
	shorten(&d.Rule)
	shorten(&d.Reason)
	shorten(&d.Subject)
	shorten(&d.TransactionID)
	q.mu.Lock()
	wake := q.put(d)
	q.mu.Unlock()
	if wake {
		signal(q.wake)
	}
}

// shorten cuts a text to what the audit service takes. Method is the caller's to choose: one that is megabytes long must not
// stay in memory, so the rest of it is let go.
func shorten(s *string) {
	if len(*s) > maxText {
		*s = strings.Clone((*s)[:maxText])
	}
}

// put appends d, or counts it as lost. It reports whether the worker has to know.
func (q *Queue) put(d Decision) bool {
	room, need := q.room(d.Allowed), 1
	if q.pending.count > 0 {
		need = 2
	}
	if room < need {
		q.pending.add(d.Time)
		q.lost++
		return false
	}
	before := q.last - q.sent
	q.putGap()
	q.push(entry{decision: d})
	after, batch := q.last-q.sent, int64(q.batch)
	return before == 0 || before < batch && after >= batch
}

// room returns how many more records are taken: allowed decisions leave a quarter of the queue to denied ones.
func (q *Queue) room(allowed bool) int {
	room := len(q.ring) - int(q.last-q.acked)
	if allowed {
		room -= len(q.ring) / 4
	}
	return room
}

// putGap appends what stands for the decisions that were lost, if any were.
func (q *Queue) putGap() {
	if q.pending.count > 0 {
		lost := q.pending
		q.push(entry{gap: &lost})
		q.pending = gap{}
	}
}

func (q *Queue) push(e entry) {
	q.last++
	*q.slot(q.last) = e
}

func (q *Queue) slot(sequence int64) *entry { return &q.ring[sequence%int64(len(q.ring))] }

// acknowledge drops the records up to and with sequence.
func (q *Queue) acknowledge(sequence int64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if sequence > q.sent {
		return fmt.Errorf("audit service acknowledged record %d; only %d were sent", sequence, q.sent)
	}
	if sequence <= q.acked {
		return nil
	}
	for q.acked < sequence {
		q.acked++
		*q.slot(q.acked) = entry{}
	}
	if q.room(true) > 0 {
		q.putGap()
	}
	if q.sent == q.acked {
		q.watchdog.Stop()
	} else {
		q.watchdog.Reset(ackTimeout)
	}
	q.err, q.failures = nil, 0
	signal(q.progress)
	return nil
}

// Stats is a snapshot of a Queue.
type Stats struct {
	// Queued is how many records wait to be stored.
	Queued int
	// Lost is how many decisions found no room.
	Lost int64
	// Sent is how many records the audit service has stored.
	Sent int64
	// Err is why the last stream failed, until records are stored again.
	Err error
}

// Stats returns a snapshot.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return Stats{Queued: int(q.last - q.acked), Lost: q.lost, Sent: q.acked, Err: q.err}
}

// signal wakes the receiver of c, which looks at everything when it wakes: one signal waiting is enough.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
