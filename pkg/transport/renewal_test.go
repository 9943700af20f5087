package transport_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// rotate gives an end a new SVID whenever half of the life of the last one has gone by.
func rotate(ctx context.Context, t *testing.T, w *world, end *owner, path string, life time.Duration) {
	ticker := time.NewTicker(life / 2)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			svid := w.ca.SVID(t, path, lives(life))
			end.set(func(o *owner) { o.svid = svid })
		case <-ctx.Done():
			return
		}
	}
}

// lives makes a certificate live for d at least: its expiry has no fraction of a second.
func lives(d time.Duration) meshtest.Template { return meshtest.Lifetime(d + time.Second) }

// shortLived returns a world where one end's SVIDs live shortly, and rotates them until the test ends.
func shortLived(t *testing.T, client, server time.Duration, opts ...transport.Option) *world {
	t.Helper()
	w := newWorld(t)
	w.inbound = newRegistry(t, w.server, opts...)
	ctx, cancel := context.WithCancel(context.Background())
	var rotating sync.WaitGroup
	t.Cleanup(rotating.Wait)
	t.Cleanup(cancel)
	for _, end := range []struct {
		owner *owner
		path  string
		life  time.Duration
	}{{w.client, "/payments", client}, {w.server, "/ledger", server}} {
		end.owner.set(func(o *owner) { o.svid = w.ca.SVID(t, end.path, lives(end.life)) })
		rotating.Go(func() { rotate(ctx, t, w, end.owner, end.path, end.life) })
	}
	return w
}

// ATTACKS 33: connections end before the SVIDs that they were made with expire, and the next ones are made with new ones. It does not matter
// whose live shortly, and no caller notices.
func TestRenewal(t *testing.T) {
	t.Parallel()
	const short = 8 * time.Second
	for _, c := range []struct {
		name           string
		client, server time.Duration
	}{
		{"the client's SVIDs live shortly", short, time.Hour},
		{"the server's SVIDs live shortly", time.Hour, short},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := shortLived(t, c.client, c.server)
			conn := openDesk(t, w.inbound.Server(), true).client(t, w.outbound.Client(w.id("/ledger")))
			ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second)
			defer cancel()
			calls, err := callers(ctx, conn, 2*time.Millisecond)
			renewed := w.inbound.Stats().Renewed
			if err != nil || renewed < 2 {
				t.Errorf("%d calls, connections renewed %d times, failed: %v", calls, renewed, err)
			}
			if cut := append(w.inbound.Cuts(), w.outbound.Cuts()...); len(cut) > 0 {
				t.Errorf("cut: %+v", cut)
			}
			t.Logf("%d calls, connections renewed %d times, none failed", calls, renewed)
		})
	}
}

// The same for two minutes by a clock that runs by itself, and without the renewal: then calls fail when the SVID expires.
func TestRenewalIsWhatKeepsCallsFromFailing(t *testing.T) {
	t.Parallel()
	const short = 6 * time.Second
	for _, c := range []struct {
		name           string
		client, server time.Duration
		opts           []transport.Option
		fails          bool
	}{
		{"the client's SVIDs live shortly", short, time.Hour, nil, false},
		{"the server's SVIDs live shortly", time.Hour, short, nil, false},
		{"both live shortly", short, short, nil, false},
		{"the client's SVIDs live shortly, without renewal", short, time.Hour, []transport.Option{transport.WithoutRenewal()}, true},
		{"the server's SVIDs live shortly, without renewal", time.Hour, short, []transport.Option{transport.WithoutRenewal()}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				w := shortLived(t, c.client, c.server, c.opts...)
				conn := openDesk(t, w.inbound.Server(), false).client(t, w.outbound.Client(w.id("/ledger")))
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				calls, err := callers(ctx, conn, 200*time.Millisecond)
				renewed, cuts := w.inbound.Stats().Renewed, len(w.inbound.Cuts())+len(w.outbound.Cuts())
				t.Logf("%d calls, %d connections renewed, %d cut, failed: %v", calls, renewed, cuts, err)
				if (err != nil) != c.fails || (cuts > 0) != c.fails || (renewed > 10) == c.fails {
					t.Errorf("want calls that fail: %v", c.fails)
				}
			})
		})
	}
}

// An open stream cannot outlive the SVIDs of its connection. It ends shortly before, with a status that tells its caller to come again, and
// not as one whose peer is no longer good.
func TestAStreamEndsBeforeTheSVIDExpires(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		opts     []transport.Option
		code     codes.Code
		from, to float64 // when it ends, in lives of the connection
	}{
		{"a connection that is renewed", nil, codes.Unavailable, 0.85, 0.95},
		{"ATTACKS 36: without renewal", []transport.Option{transport.WithoutRenewal()}, codes.Unauthenticated, 1, 1.001},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.inbound = newRegistry(t, w.server, c.opts...)
				conn := openDesk(t, w.inbound.Server(), false).client(t, w.outbound.Client(w.id("/ledger")))
				idle, busy := feed(t.Context(), t, conn, 0), begin(t, conn, 2*time.Hour)
				opened := newest(w.inbound)
				for _, ended := range []<-chan error{idle, busy} {
					err := <-ended
					age := float64(time.Since(opened.Opened)) / float64(opened.Expires.Sub(opened.Opened))
					if status.Code(err) != c.code || age < c.from || age > c.to {
						t.Errorf("%v, at %.3f of its life; want %v at %v to %v", err, age, c.code, c.from, c.to)
					}
				}
			})
		})
	}
}

// SVIDs that live for decades, where a verifier lets them, make connections that are not renewed at once.
func TestALongLifeIsNotTakenForAShortOne(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		decades := meshtest.Lifetime(50 * 365 * 24 * time.Hour)
		ca := meshtest.NewCA(t, "bank.test", decades)
		server, client := newOwner(ca.SVID(t, "/ledger", decades), ca.Bundle()), newOwner(ca.SVID(t, "/payments", decades), ca.Bundle())
		patient := func(id *owner) transport.Option {
			return transport.WithVerifier(identity.NewVerifier(id, identity.WithMaxLifetime(0)))
		}
		inbound, outbound := newRegistry(t, server, patient(server)), newRegistry(t, client, patient(client))
		conn := openDesk(t, inbound.Server(), false).client(t, outbound.Client(server.svid.ID))
		if err := wait(t.Context(), conn, 10*time.Second); err != nil {
			t.Error(err)
		}
		if renewed := inbound.Stats().Renewed; renewed > 0 {
			t.Errorf("renewed %d times", renewed)
		}
	})
}

// ATTACKS 38 and 39: timers do not see that a machine slept or that its clock was set. A connection is cut within a second of
// that, in whatever stage it is, when its peer's SVID has expired by the clock.
func TestAConnectionIsCutAfterAClockJump(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		jumps []time.Duration
		cut   bool
	}{
		{"beyond the expiry at once", []time.Duration{2 * time.Hour}, true},
		{"to the renewal, and beyond the expiry", []time.Duration{40 * time.Minute, time.Hour}, true},
		{"five minutes ahead", []time.Duration{5 * time.Minute}, false},
		{"five minutes back", []time.Duration{-5 * time.Minute}, false},
		{"back, and ahead beyond the expiry", []time.Duration{-5 * time.Minute, 2 * time.Hour}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				var ahead atomic.Int64
				w := newWorld(t)
				clock := func() time.Time { return time.Now().Round(0).Add(time.Duration(ahead.Load())) }
				w.inbound = newRegistry(t, w.server, transport.WithClock(clock))
				conn := openDesk(t, w.inbound.Server(), false).client(t, w.outbound.Client(w.id("/ledger")))
				idle := feed(t.Context(), t, conn, 0)
				for _, jump := range c.jumps {
					ahead.Add(int64(jump))
					pass(time.Second)
					synctest.Wait()
				}
				select {
				case err := <-idle:
					if !c.cut || status.Code(err) != codes.Unauthenticated {
						t.Errorf("the stream ended: %v", err)
					}
				default:
					if c.cut {
						t.Error("the stream goes on")
					}
				}
				cuts := w.inbound.Cuts()
				if c.cut && (len(cuts) != 1 || cuts[0].Reason != transport.Expired) || !c.cut && len(cuts) > 0 {
					t.Errorf("cuts: %+v", cuts)
				}
				if got := len(w.inbound.Conns()); (got == 0) != c.cut {
					t.Errorf("%d connections", got)
				}
			})
		})
	}
}

// ATTACKS 39: the socket of a connection that was cut is closed in time though the clock is set back at that moment.
func TestAClockThatIsSetBackKeepsNoDeadConnectionOpen(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		var ahead atomic.Int64
		w := newWorld(t)
		clock := func() time.Time { return time.Now().Round(0).Add(time.Duration(ahead.Load())) }
		w.inbound = newRegistry(t, w.server, transport.WithClock(clock))
		conn := openDesk(t, w.inbound.Server(), false).client(t, w.outbound.Client(w.id("/ledger")))
		idle := feed(t.Context(), t, conn, 0)
		pass(time.Second)
		w.server.trust()
		synctest.Wait()
		ahead.Add(-int64(time.Hour))
		if err := <-idle; status.Code(err) != codes.Unauthenticated {
			t.Errorf("the stream ended: %v", err)
		}
		pass(time.Second)
		if got := w.inbound.Held(); got != 0 {
			t.Errorf("%d connections are held a second later", got)
		}
	})
}
