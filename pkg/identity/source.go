package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// What GetX509SVID answers when there is no SVID that may be used.
var (
	// ErrExpired: the SVID has expired and the Workload API has sent no new one.
	ErrExpired = errors.New("own SVID has expired")
	// ErrWithdrawn: the Workload API no longer grants this identity to this process.
	ErrWithdrawn = errors.New("own identity was withdrawn by the Workload API")
	// ErrClosed: the Source was closed.
	ErrClosed = errors.New("identity source is closed")
)

// Source is this process's identity: its SVID and the bundles it trusts, kept fresh from the SPIFFE Workload API for as
// long as the Source is open. It is safe for concurrent use. The zero value is not usable; see New.
//
// It implements x509svid.Source and x509bundle.Source of go-spiffe.
type Source struct {
	opts   options
	addr   string
	log    *lines
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	held    *material // nil until the first good response
	changed chan struct{}
	// What the Workload API last said, as opposed to what the clock says.
	connected, withdrawn, closed bool

	rotated   time.Time
	rotations int
	failures  int
	lastErr   error     // why the state is not fresh
	lostErr   error     // why the last stream ended, until there is another
	noted     *material // whose expiry was announced
}

// Option changes a default of New.
type Option func(*options)

type options struct {
	socket       string
	log          *slog.Logger
	startTimeout time.Duration
	id           spiffeid.ID
	hint         string
	now          func() time.Time
	firstMessage time.Duration
}

// WithSocket names the Workload API's endpoint, such as "unix:///run/spire/agent.sock"; by default the environment
// variable SPIFFE_ENDPOINT_SOCKET does (SPIFFE Workload Endpoint §4).
func WithSocket(addr string) Option { return func(o *options) { o.socket = addr } }

// WithLogger sets where rotations and failures are logged; slog.Default by default. A handler that is slow holds up neither the Source nor
// those who ask it, and may ask it too; Close waits for the last line, so a handler must not close the Source.
func WithLogger(log *slog.Logger) Option { return func(o *options) { o.log = log } }

// WithStartTimeout bounds how long New waits for a first SVID; 15 s by default.
func WithStartTimeout(d time.Duration) Option { return func(o *options) { o.startTimeout = d } }

// WithID chooses among several SVIDs the one with this ID; by default the first is used (Workload API §5.3).
func WithID(id spiffeid.ID) Option { return func(o *options) { o.id = id } }

// WithHint chooses among several SVIDs the first one with this hint (Workload API §5.2.1). A hint is guidance: beside WithID, and once
// the Source has an ID, it chooses only among SVIDs of that ID, and one without the hint does when there is no other.
func WithHint(hint string) Option { return func(o *options) { o.hint = hint } }

// New connects to the Workload API and waits for a first SVID. Its error says which endpoint was tried, what it answered
// and what to do about it. The Source goes on watching until Close; ctx bounds only New itself.
func New(ctx context.Context, opts ...Option) (*Source, error) {
	o := options{log: slog.Default(), startTimeout: 15 * time.Second, now: time.Now, firstMessage: firstMessage}
	for _, opt := range opts {
		opt(&o)
	}
	e, err := newEndpoint(o.socket)
	if err != nil {
		return nil, err
	}
	watching, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &Source{opts: o, addr: e.addr, log: &lines{handler: o.log.Handler()}, cancel: cancel, done: make(chan struct{}), changed: make(chan struct{})}
	go func() {
		defer close(s.done)
		var guarding sync.WaitGroup
		guarding.Go(func() { s.guard(watching) })
		s.watch(watching, e)
		guarding.Wait()
	}()
	if err := s.awaitFirst(ctx); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// awaitFirst waits until there is an SVID.
func (s *Source) awaitFirst(ctx context.Context) error {
	timeout := time.NewTimer(s.opts.startTimeout)
	defer timeout.Stop()
	for {
		changed := s.Changed()
		if ready, _ := s.answer(); ready {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			_, last := s.answer()
			return startError(s.addr, context.Cause(ctx), last)
		case <-timeout.C:
			_, last := s.answer()
			return startError(s.addr, fmt.Errorf("none within %s", s.opts.startTimeout), last)
		}
	}
}

// answer reports whether there was an SVID yet, and the last thing that went wrong.
func (s *Source) answer() (ready bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held != nil, s.lastErr
}

// GetX509SVID returns the current SVID. It never returns one that has expired or was withdrawn: the error is ErrExpired,
// ErrWithdrawn or ErrClosed.
func (s *Source) GetX509SVID() (*x509svid.SVID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, ErrClosed
	case s.withdrawn:
		return nil, ErrWithdrawn
	case s.expired():
		return nil, fmt.Errorf("%w: serial %s, at %s", ErrExpired, s.held.serial, stamp(s.held.notAfter))
	}
	return s.held.svid, nil
}

// GetX509BundleForTrustDomain returns the authorities of one trust domain: the process's own, or one that the Workload API
// federates with.
func (s *Source) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	bundle, ok := s.held.bundles[td]
	if !ok {
		return nil, fmt.Errorf("the Workload API sent no bundle of trust domain %q", td)
	}
	return bundle, nil
}

// ID returns the SPIFFE ID of the SVID that New got. It never changes for the life of the Source.
func (s *Source) ID() spiffeid.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held.svid.ID
}

// Changed returns a channel that is closed at the next change of the SVID, the bundles or the state. Call it before
// reading what may change, and again after each close.
func (s *Source) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Close ends the watch and waits for it and for the log. The Source hands out nothing afterwards.
func (s *Source) Close() error {
	s.cancel()
	<-s.done
	s.close()
	s.log.wait()
	return nil
}

func (s *Source) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed, s.connected = true, false
		s.broadcast()
	}
}

// broadcast wakes everybody who waits on Changed. The caller holds mu.
func (s *Source) broadcast() {
	close(s.changed)
	s.changed = make(chan struct{})
}
