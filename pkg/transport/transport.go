// Package transport secures gRPC connections with the identities of package identity: mutual TLS 1.3, no resumption, each
// peer verified strictly, each client pinning the server's exact SPIFFE ID. It knows every live connection, and cuts one
// whose peer is no longer good.
//
// TLS alone verifies at the handshake only. A connection may live for days: its peer's SVID expires, the authority behind it
// leaves the bundle, somebody revokes it, and calls go on. A Registry closes that gap: it cuts such a connection, ends the calls on it
// (see Bind) and refuses more (CheckLive), all within a second. And it lets a peer that is good not feel the limit: an inbound connection is
// renewed by GOAWAY long before one of its certificates expires.
//
// An authority can be replaced long before it expires, when its key is feared for: a new one is prepared, workloads get SVIDs of it, and the old
// one leaves the bundle. That would cut every connection that was made with an SVID of the old one. So each end renews the connections that it has shown
// an SVID of another authority on than its own is of now: within ten seconds, spread over that time, by GOAWAY to its clients, and as a client by
// leaving the server as if that had sent one. Calls in flight then have half a minute; those that take longer, streams, end with a status that tells them to come
// again. Both are shorter where little is left of the SVIDs. Who waits for longer than that between the new SVIDs and the end of the old authority cuts nothing.
//
// A server needs the two together: the credentials of a Registry, and interceptors that bind each call to its connection and ask CheckLive
// about what goes in and out. Package mesh puts them together.
package transport

import (
	"context"
	"log/slog"
	"math"
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
	id   Identity
	opts options
	// watching is what the goroutines of the Registry run under; tasks waits for them.
	watching context.Context //nolint:containedctx // the life of the Registry, which belongs to no call
	cancel   context.CancelFunc
	tasks    sync.WaitGroup
	wake     chan struct{} // something is due earlier than what is waited for

	// accepting is what every inbound handshake runs under; abort ends it.
	accepting context.Context //nolint:containedctx // credentials.TransportCredentials passes none to a server
	abort     context.CancelFunc

	// sweeping lets one connection at a time be verified anew: of two verdicts on the same peer the later must be the one that stays.
	sweeping sync.Mutex
	// sweeps counts the times that all connections were verified anew. A handshake that overlaps one is verified again.
	sweeps   atomic.Uint64
	verifier atomic.Pointer[identity.Verifier]

	mu     sync.Mutex
	queue  queue  // the live connections, the one that something is due for first
	dead   []dead // those that have ended and whose socket is still open, the oldest first
	opened uint64
	closed bool
	lists  []RevocationList
	tally  tally

	// slots bounds the inbound handshakes that have begun.
	slots chan struct{}
	// What strangers send here must not hide what goes wrong with the servers that this process dials.
	inbound, outbound refusals
	cuts              refusals
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
	shortLife     time.Duration
	// moveTime is how long after a change of the own authority the last connection is renewed, moveGrace how long calls in flight have then.
	moveTime, moveGrace time.Duration
}

// WithLogger sets where refused handshakes and cut connections are logged; slog.Default by default.
func WithLogger(log *slog.Logger) Option { return func(o *options) { o.log = log } }

// WithVerifier sets the verifier; identity.NewVerifier(id) by default.
func WithVerifier(v *identity.Verifier) Option { return func(o *options) { o.verifier = v } }

// WithoutRenewal leaves every connection open until it must be cut, for peers that do not come again by themselves. Their calls in
// flight are then lost with the SVIDs that the connection was made with, and with the authority that signed them.
func WithoutRenewal() Option { return func(o *options) { o.shortLife = math.MaxInt64 } }

// NewRegistry returns a Registry and starts to watch id for changes; Close ends it.
func NewRegistry(id Identity, opts ...Option) *Registry {
	o := options{
		log: slog.Default(), verifier: identity.NewVerifier(id), now: time.Now,
		handshakes: maxHandshakes, handshakeTime: handshakeTime, shortLife: shortLife,
		moveTime: moveTime, moveGrace: moveGrace,
	}
	for _, opt := range opts {
		opt(&o)
	}
	watching, cancel := context.WithCancel(context.Background())
	accepting, abort := context.WithCancel(context.Background())
	r := &Registry{
		id:        id,
		opts:      o,
		watching:  watching,
		cancel:    cancel,
		wake:      make(chan struct{}, 1),
		tally:     newTally(),
		accepting: accepting,
		abort:     abort,
		slots:     make(chan struct{}, o.handshakes),
		inbound:   newRefusals(),
		outbound:  newRefusals(),
		cuts:      newRefusals(),
	}
	r.verifier.Store(o.verifier)
	r.tasks.Go(func() { r.follow(id.Changed) })
	r.tasks.Go(r.attend)
	return r
}

// Server returns credentials for a server: any peer with a good SVID gets through the handshake, what it may do is
// for authorization to say.
func (r *Registry) Server() credentials.TransportCredentials { return &creds{registry: r} }

// Client returns credentials for dialling the one server that has this SPIFFE ID.
func (r *Registry) Client(server spiffeid.ID) credentials.TransportCredentials {
	return &creds{registry: r, server: server}
}

// ID returns the SPIFFE ID that the connections are made with. It fails while there is no good SVID.
func (r *Registry) ID() (spiffeid.ID, error) {
	svid, err := r.id.GetX509SVID()
	if err != nil {
		return spiffeid.ID{}, err
	}
	return svid.ID, nil
}

// RevocationList is whom not to believe any more, as somebody keeps it; an authz.File is one.
type RevocationList interface {
	// Revocations returns the list in force.
	Revocations() *identity.Revocations
	// Changed is closed when the next list comes into force. Whoever waits for that calls it before Revocations.
	Changed() <-chan struct{}
}

// Heed refuses and cuts whom list names, from now on and until Close: it takes effect on handshakes and on connections that are made,
// those to servers too. Several lists add up; the same one (by ==, so it must be comparable, as a pointer is) counts once.
func (r *Registry) Heed(list RevocationList) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || slices.Contains(r.lists, list) {
		return
	}
	r.lists = append(r.lists, list)
	r.verifier.Store(r.verifier.Load().With(identity.WithRevocations(list.Revocations)))
	r.tasks.Go(func() { r.follow(list.Changed) })
}

// AbortHandshakes closes every connection whose inbound handshake is in progress and makes each later one fail at once. Outbound
// handshakes and connections that are made go on.
//
// It is the first act of a server's drain: gRPC's GracefulStop and Stop wait for handshakes in progress, so that one silent
// connection of a stranger would hold the drain up for as long as a handshake may take.
func (r *Registry) AbortHandshakes() { r.abort() }

// Close aborts the handshakes in progress, stops watching and closes every connection that is left. It waits for all that the Registry
// started.
func (r *Registry) Close() error {
	r.abort()
	r.cancel()
	r.mu.Lock()
	r.closed = true
	all := slices.Clone(r.queue)
	for _, d := range r.dead {
		all = append(all, d.conn)
	}
	r.mu.Unlock()
	for _, c := range all {
		r.end(c, closing())
		r.drop(c)
	}
	r.tasks.Wait()
	return nil
}
