package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
)

const (
	lanes         = 4  // servers, each with a policy file of its own
	trialsPerLane = 50 // peers that are revoked, one after another
)

// trial is one peer that is revoked while it calls.
type trial struct {
	peer string
	// How long after the revocation a handler got a message for the last time, the client an answer, and the client's call ended.
	accepted, answered, ended time.Duration
}

// ATTACKS 37: from the moment at which a policy file that revokes a peer is in place, to the last message of it that a handler gets. The
// promise is a second for 99 of 100, with calls in flight and streams open.
func TestRevocationToTheLastAcceptedMessage(t *testing.T) { //nolint:tparallel // the lanes are waited for
	t.Parallel()
	results := make(chan trial, lanes*trialsPerLane)
	t.Run("lanes", func(t *testing.T) {
		for n := range lanes {
			t.Run(fmt.Sprint(n), func(t *testing.T) {
				t.Parallel()
				newLane(t).run(t, results)
			})
		}
	})
	close(results)
	var accepted, answered, ended []time.Duration
	for r := range results {
		accepted, answered, ended = append(accepted, r.accepted), append(answered, r.answered), append(ended, r.ended)
	}
	if len(ended) < lanes*trialsPerLane {
		t.Fatalf("%d trials, want %d", len(ended), lanes*trialsPerLane)
	}
	for what, took := range map[string][]time.Duration{
		"the last accepted message": accepted, "the last answer": answered, "the end of the call": ended,
	} {
		p99 := quantile(took, 99)
		t.Logf("revocation to %-25s over %d trials: p50 %v, p99 %v, max %v", what, len(took), quantile(took, 50), p99, quantile(took, 100))
		if p99 > promise {
			t.Errorf("revocation to %s: p99 %v, promised is %v", what, p99, promise)
		}
	}
}

// quantile returns the least of values that so many percent do not exceed.
func quantile(values []time.Duration, percent int) time.Duration {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(0, (len(sorted)*percent+99)/100-1)].Round(time.Millisecond)
}

// lane is a server, and peers that are revoked one after another: the list in its policy grows.
type lane struct {
	*world
	peers   []string
	revoked []string

	mu       sync.Mutex
	accepted map[string]time.Time // when a handler got a peer's last message
}

func newLane(t *testing.T) *lane {
	t.Helper()
	l := &lane{accepted: make(map[string]time.Time)}
	for n := range trialsPerLane {
		l.peers = append(l.peers, fmt.Sprintf("/peer-%d", n))
	}
	l.world = newWorld(t, l.peers)
	l.echo.accepted = func(ctx context.Context) {
		peer, _ := identity.FromContext(ctx)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.accepted[peer.ID.Path()] = time.Now()
	}
	return l
}

func (l *lane) lastAccepted(peer string) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.accepted[peer]
}

// run revokes the peers one after another: by ID, by serial number, by authority; while they make unary calls, use a stream hard, keep one
// open that is idle.
func (l *lane) run(t *testing.T, results chan<- trial) {
	loads := []func(context.Context, *caller, *used) error{callOn, streamOn, keepOpen}
	trials := make([]trial, 0, len(l.peers))
	froms := make([]time.Time, 0, len(l.peers))
	for n, peer := range l.peers {
		authority := l.ca.Intermediate(t) // of its own, so that nobody else goes with it
		svid := authority.SVID(t, peer)
		c := l.caller(t, svid)
		entry := []string{
			"id: " + peer,
			fmt.Sprintf("serial: %x", svid.Certificates[0].SerialNumber),
			"authority: " + identity.AuthorityOf(svid.Certificates[1]),
		}[n%3]
		ctx, cancel := context.WithCancel(t.Context())
		u := &used{}
		ended := make(chan end, 1)
		go func() {
			err := loads[n/3%3](ctx, c, u)
			ended <- end{err: err, at: time.Now()}
		}()
		eventually(t, "the peer's calls are accepted", func() bool { return u.answers.Load() > 0 })
		l.revoked = append(l.revoked, entry)
		from := l.rules.replace(t, echoPolicy(l.peers, l.revoked...))
		var over end
		select {
		case over = <-ended:
		case <-time.After(15 * time.Second):
			t.Fatalf("%s, revoked by %s, goes on", peer, entry)
		}
		if !slices.Contains(nowhere, status.Code(over.err)) && over.at.Sub(from) < promise {
			t.Errorf("%s, revoked by %s: its call ended with %v", peer, entry, over.err)
		}
		if err := say(ctx, c.conn); err == nil {
			t.Errorf("%s, revoked by %s, is back", peer, entry)
		}
		cancel()
		_ = c.conn.Close() // or it would knock for as long as the others have their turn
		trials = append(trials, trial{peer: peer, answered: since(from, u.last()), ended: since(from, over.at)})
		froms = append(froms, from)
	}
	for n, tr := range trials { // at the end, lest something is accepted later
		tr.accepted = since(froms[n], l.lastAccepted(tr.peer))
		results <- tr
	}
}

// since is how long after from something happened for the last time; zero when that was before.
func since(from, last time.Time) time.Duration { return max(0, last.Sub(from)) }

// used is what a peer's calls have come to.
type used struct {
	answers atomic.Int64
	latest  atomic.Int64 // when the last answer came, in ns
}

func (u *used) answered() {
	u.answers.Add(1)
	u.latest.Store(time.Now().UnixNano())
}

func (u *used) last() time.Time { return time.Unix(0, u.latest.Load()) }

// errGoesOn means that something ended well that should not have.
var errGoesOn = errors.New("the call was answered to the end")

// callOn makes unary calls until one fails.
func callOn(ctx context.Context, c *caller, u *used) error {
	for {
		if err := say(ctx, c.conn); err != nil {
			return err
		}
		u.answered()
	}
}

// streamOn exchanges messages on a stream until that fails.
func streamOn(ctx context.Context, c *caller, u *used) error {
	stream, err := talk(ctx, c.conn)
	if err != nil {
		return err
	}
	for {
		if err := exchange(stream); err != nil {
			return err
		}
		u.answered()
	}
}

// keepOpen waits on a stream on which nothing moves.
func keepOpen(ctx context.Context, c *caller, u *used) error {
	stream, err := talk(ctx, c.conn)
	if err != nil {
		return err
	}
	if err := exchange(stream); err != nil {
		return err
	}
	u.answered()
	if err := stream.RecvMsg(small()); err != nil {
		return err
	}
	return errGoesOn
}
