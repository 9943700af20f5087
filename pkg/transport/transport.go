// Package transport secures gRPC connections with the identities of package identity: mutual TLS 1.3, no resumption, each
// peer verified strictly, each client pinning the server's exact SPIFFE ID. It knows every live connection, and cuts one
// whose peer is no longer good.
//
// TLS alone verifies at the handshake only. A connection may live for days: its peer's SVID expires, the authority behind it
// leaves the bundle, and calls go on. A Registry closes that gap in two ways: it cuts such a connection within a second, and
// CheckLive refuses calls that arrive on it meanwhile.
package transport

import (
	"cmp"
	"container/heap"
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc/credentials"

	"github.com/countersign-mesh/countersign/pkg/identity"
)

// Identity is what a Registry needs of an identity.Source.
type Identity interface {
	x509svid.Source
	x509bundle.Source
	// Changed is closed at the next change of SVID, bundles or state.
	Changed() <-chan struct{}
}

// Registry makes the credentials of one process and knows every connection that was made with them. It is safe for concurrent
// use. The zero value is not usable; see NewRegistry.
type Registry struct {
	id     Identity
	opts   options
	cancel context.CancelFunc
	done   chan struct{}
	wake   chan struct{} // there is an earlier expiry than the one waited for

	// accepting is what every inbound handshake runs under; abort ends it.
	accepting context.Context //nolint:containedctx // credentials.TransportCredentials passes none to a server
	abort     context.CancelFunc

	// sweeps counts the times that all connections were verified anew. A handshake that overlaps one is verified again.
	sweeps atomic.Uint64

	mu     sync.Mutex
	queue  queue // the live connections, the earliest to expire first
	opened uint64
	closed bool

	// slots bounds the inbound handshakes that have begun.
	slots chan struct{}
	// What strangers send here must not hide what goes wrong with the servers that this process dials.
	inbound, outbound refusals
}

// Option changes a default of NewRegistry.
type Option func(*options)

type options struct {
	log      *slog.Logger
	verifier *identity.Verifier
	now      func() time.Time
	// handshakes is how many inbound handshakes go on at once, handshakeTime how long each may take once it has begun.
	handshakes    int
	handshakeTime time.Duration
}

// WithLogger sets where refused handshakes and cut connections are logged; slog.Default by default.
func WithLogger(log *slog.Logger) Option { return func(o *options) { o.log = log } }

// WithVerifier sets the verifier; identity.NewVerifier(id) by default.
func WithVerifier(v *identity.Verifier) Option { return func(o *options) { o.verifier = v } }

// NewRegistry returns a Registry and starts to watch id for changes; Close ends it.
func NewRegistry(id Identity, opts ...Option) *Registry {
	o := options{
		log: slog.Default(), verifier: identity.NewVerifier(id), now: time.Now,
		handshakes: maxHandshakes, handshakeTime: handshakeTime,
	}
	for _, opt := range opts {
		opt(&o)
	}
	ctx, cancel := context.WithCancel(context.Background())
	accepting, abort := context.WithCancel(context.Background())
	r := &Registry{
		id:        id,
		opts:      o,
		cancel:    cancel,
		done:      make(chan struct{}),
		wake:      make(chan struct{}, 1),
		accepting: accepting,
		abort:     abort,
		slots:     make(chan struct{}, o.handshakes),
		inbound:   newRefusals(),
		outbound:  newRefusals(),
	}
	go func() {
		defer close(r.done)
		r.watch(ctx)
	}()
	return r
}

// Identity returns the identity that the Registry was made with.
func (r *Registry) Identity() Identity { return r.id }

// Server returns credentials for a server: any peer with a good SVID gets through the handshake, what it may do is
// for authorization to say.
func (r *Registry) Server() credentials.TransportCredentials { return &creds{registry: r} }

// Client returns credentials for dialling the one server that has this SPIFFE ID.
func (r *Registry) Client(server spiffeid.ID) credentials.TransportCredentials {
	return &creds{registry: r, server: server}
}

// Direction says which end of a connection this process is.
type Direction int

// The directions.
const (
	// Inbound connections were accepted here.
	Inbound Direction = iota + 1
	// Outbound connections were dialled here.
	Outbound
)

// String returns "inbound" or "outbound".
func (d Direction) String() string {
	if d == Inbound {
		return "inbound"
	}
	return "outbound"
}

// Conn is a snapshot of a live connection.
type Conn struct {
	Peer       *identity.Peer
	Direction  Direction
	RemoteAddr string
	Opened     time.Time
}

// Conns returns the live connections, oldest first.
func (r *Registry) Conns() []Conn {
	live := r.live()
	slices.SortFunc(live, func(a, b *conn) int { return cmp.Compare(a.seq, b.seq) })
	conns := make([]Conn, len(live))
	for i, c := range live {
		conns[i] = Conn{Peer: r.verified(c), Direction: c.direction, RemoteAddr: c.RemoteAddr().String(), Opened: c.opened}
	}
	return conns
}

// AbortHandshakes closes every connection whose inbound handshake is in progress and makes each later one fail at once. Outbound
// handshakes and connections that are made go on.
//
// It is the first act of a server's drain: gRPC's GracefulStop and Stop wait for handshakes in progress, so that one silent
// connection of a stranger would hold the drain up for as long as a handshake may take.
func (r *Registry) AbortHandshakes() { r.abort() }

// Close aborts the handshakes in progress, stops watching and cuts every connection that is left.
func (r *Registry) Close() error {
	r.abort()
	r.cancel()
	<-r.done
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	for _, c := range r.live() {
		c.cut(errClosed)
	}
	return nil
}

// live returns the connections as they are now.
func (r *Registry) live() []*conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.queue)
}

// add takes a connection in. It fails when the peer is no longer good by now.
func (r *Registry) add(c *conn, sweep uint64) error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return errClosed
	}
	r.opened++
	c.seq = r.opened
	heap.Push(&r.queue, c)
	first := r.queue[0] == c
	r.mu.Unlock()
	if first {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
	// A change of the bundles between the verification and this moment has not seen the connection: it counts the sweep first and lists
	// the connections then.
	if r.sweeps.Load() != sweep {
		return r.recheck(c)
	}
	return nil
}

// remove forgets a connection.
func (r *Registry) remove(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.index >= 0 {
		heap.Remove(&r.queue, c.index)
	}
}

// verified returns the peer of a connection as it verified last.
func (r *Registry) verified(c *conn) *identity.Peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return c.verified
}

// keep notes how the peer of a connection verified now, for the next time, and its moment of expiry.
func (r *Registry) keep(c *conn, peer *identity.Peer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.verified = peer
	if c.index >= 0 && !c.notAfter.Equal(peer.NotAfter) {
		c.notAfter = peer.NotAfter
		heap.Fix(&r.queue, c.index)
	}
}

// queue is a heap of connections by expiry.
type queue []*conn

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].notAfter.Before(q[j].notAfter) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *queue) Push(x any) {
	c := x.(*conn) //nolint:errcheck,forcetypeassert // nothing else is pushed
	c.index = len(*q)
	*q = append(*q, c)
}

func (q *queue) Pop() any {
	old := *q
	c := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	c.index = -1
	return c
}
