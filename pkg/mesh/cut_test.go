package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// promise is within what time the calls of a peer end that is no longer good.
const promise = time.Second

// doomed and good are the peers of these tests: something befalls the one, and the other must not notice.
var doomedAndGood = []string{"/doomed", "/good"}

// spoiling is something that befalls a peer. It returns the moment from which the peer is no longer good.
type spoiling struct {
	name  string
	spoil func(t *testing.T, w *world, doomed *caller) time.Time
	// life is how long the peer's SVID lives; an hour when it is zero.
	life time.Duration
	// want is what its calls end with.
	want []codes.Code
	// all says that it befalls all peers, as it is the server that it befalls.
	all bool
}

// nowhere are the codes that a peer is told that is no longer good.
var nowhere = []codes.Code{codes.Unauthenticated, codes.PermissionDenied}

// spoilings are what can befall a client.
func spoilings() []spoiling {
	revoke := func(entry func(d *caller) string) func(*testing.T, *world, *caller) time.Time {
		return func(t *testing.T, w *world, d *caller) time.Time {
			t.Helper()
			return w.rules.replace(t, echoPolicy(doomedAndGood, entry(d)))
		}
	}
	return []spoiling{
		{name: "ATTACKS 36: its SVID expires", life: 2 * time.Second, want: nowhere, spoil: func(_ *testing.T, _ *world, d *caller) time.Time {
			return d.id.svid.Certificates[0].NotAfter
		}},
		{name: "ATTACKS 37: its authority leaves the bundle", want: nowhere, spoil: func(_ *testing.T, w *world, _ *caller) time.Time {
			w.server.trust(w.second)
			return time.Now()
		}},
		{name: "ATTACKS 37: its ID is revoked", want: nowhere, spoil: revoke(func(*caller) string { return "id: /doomed" })},
		{name: "ATTACKS 37: its serial number is revoked", want: nowhere, spoil: revoke(func(d *caller) string {
			return fmt.Sprintf("serial: %x", d.id.svid.Certificates[0].SerialNumber)
		})},
		{name: "ATTACKS 37: its authority is revoked", want: nowhere, spoil: func(t *testing.T, w *world, _ *caller) time.Time {
			t.Helper()
			return w.rules.replace(t, echoPolicy(doomedAndGood, "authority: "+identity.AuthorityOf(w.first.X509Authorities()[0])))
		}},
		{name: "the server's own identity is withdrawn", all: true, want: []codes.Code{codes.Unavailable}, spoil: func(_ *testing.T, w *world, _ *caller) time.Time {
			w.server.withdraw()
			return time.Now()
		}},
	}
}

// attempts is how often a call may miss its status, if it once gets it: on a machine that is busy with other tests a client may read nothing for half
// a second, and then the socket is closed (package transport calls that time linger). A kind of call that never gets it has no such excuse.
const attempts = 3

// What the calls in flight and the open streams of a peer come to that is no longer good: they end within a second, with a status that says
// so, whatever their handlers are doing; and another peer's calls go on.
func TestCallsEndWithTheIdentityOfTheirCaller(t *testing.T) {
	t.Parallel()
	for _, s := range spoilings() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			untold := slices.Collect(maps.Keys(calls()))
			for range attempts {
				missed := s.befall(t)
				untold = slices.DeleteFunc(untold, func(name string) bool {
					return calls()[name].unread || !slices.Contains(missed, name)
				})
				if len(untold) == 0 || t.Failed() {
					return
				}
			}
			t.Errorf("in each of %d attempts these ended with their connection and without a status of their own: %q", attempts, untold)
		})
	}
}

// befall makes calls of every kind, lets it befall their caller, and returns those that missed their status.
func (s spoiling) befall(t *testing.T) (missed []string) {
	t.Helper()
	w := newWorldWithoutRenewal(t, doomedAndGood)
	good := w.caller(t, w.others.SVID(t, "/good"))
	if err := say(t.Context(), good.conn); err != nil {
		t.Fatal(err)
	}
	doomed, ends := w.startAll(t, s.life)
	undisturbed := func() {}
	if !s.all {
		undisturbed = useAll(t, good)
	}
	missed = lookAtEnds(t, ends, s.spoil(t, w, doomed), s.want)
	undisturbed()
	return missed
}

// startAll makes a call of every kind from the peer that is doomed, whose SVID lives so long. When that was too short, it tries again.
func (w *world) startAll(t *testing.T, life time.Duration) (*caller, map[string]<-chan end) {
	t.Helper()
	var err error
	for range 10 {
		doomed := w.caller(t, w.shortLived(t, "/doomed", life))
		var ends map[string]<-chan end
		if ends, err = w.tryStartAll(t.Context(), doomed); err == nil && time.Now().Before(doomed.id.svid.Certificates[0].NotAfter) {
			return doomed, ends
		}
	}
	t.Fatalf("the calls cannot be made: %v", err)
	return nil, nil
}

func (w *world) tryStartAll(ctx context.Context, c *caller) (map[string]<-chan end, error) {
	ends := make(map[string]<-chan end)
	var failed error
	var mu sync.Mutex
	var starting sync.WaitGroup
	for name, kind := range calls() {
		starting.Go(func() {
			ended, err := w.echo.start(ctx, c.conn, name, kind)
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, err)
			ends[name] = ended
		})
	}
	starting.Wait()
	return ends, failed
}

// linger is how long package transport leaves the socket of a connection open that was cut, for the statuses of its calls to get out.
const linger = 500 * time.Millisecond

// lost says that a call ended with its connection and not with a status that its server sent.
func lost(err error) bool {
	return status.Code(err) == codes.Unavailable && !strings.Contains(err.Error(), "no valid identity")
}

// lookAtEnds fails unless every call has ended in time, not before, and as it should, and returns those that ended with their connection, when that
// was closed. That 99 of 100 keep the promise is for TestRevocationToTheLastAcceptedMessage to say; here are calls that keep two processors busy,
// beside other tests.
func lookAtEnds(t *testing.T, ends map[string]<-chan end, from time.Time, want []codes.Code) (missed []string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(ends)) {
		select {
		case over := <-ends[name]:
			after := over.at.Sub(from)
			switch {
			case after < 0 || over.fault != nil:
				t.Errorf("%s ended after %v with %v; its handler found %v", name, after, over.err, over.fault)
			case lost(over.err) && after >= linger:
				missed = append(missed, name)
			case lost(over.err) || !slices.Contains(want, status.Code(over.err)):
				t.Errorf("%s ended after %v with %v, want one of %v", name, after, over.err, want)
			}
			t.Logf("%-50s %8s %v", name, after.Round(time.Millisecond), over.err)
		case <-time.After(max(time.Until(from)+5*promise, promise/10)):
			t.Errorf("%s goes on", name)
		}
	}
	return missed
}

// checkEnds is lookAtEnds where none has an excuse: the connection stays open, or it is the caller's own end that knows why it was closed.
func checkEnds(t *testing.T, ends map[string]<-chan end, from time.Time, want []codes.Code) {
	t.Helper()
	if missed := lookAtEnds(t, ends, from, want); len(missed) > 0 {
		t.Errorf("these ended without a status of their own: %q", missed)
	}
}

// shortLived returns an SVID of the first authority. One that lives for seconds is made when a second has just begun, as certificates
// know no fractions.
func (w *world) shortLived(t *testing.T, path string, life time.Duration) *x509svid.SVID {
	t.Helper()
	if life == 0 {
		return w.ca.SVID(t, path)
	}
	<-time.After(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
	return w.ca.SVID(t, path, meshtest.Lifetime(life))
}

// useAll keeps making calls, unary and on a stream, until the function that it returns is called. None may fail.
func useAll(t *testing.T, c *caller) (stop func()) {
	t.Helper()
	stopped := make(chan struct{})
	var using sync.WaitGroup
	var made atomic.Int64
	loop := func(once func(context.Context) error) {
		using.Go(func() {
			for {
				select {
				case <-stopped:
					return
				case <-time.After(time.Millisecond):
				}
				if err := once(context.WithoutCancel(t.Context())); err != nil {
					t.Errorf("a call of a peer that is good: %v", err)
					return
				}
				made.Add(1)
			}
		})
	}
	stream, err := talk(t.Context(), c.conn)
	if err != nil {
		t.Fatal(err)
	}
	loop(func(ctx context.Context) error { return say(ctx, c.conn) })
	loop(func(context.Context) error { return exchange(stream) })
	return func() {
		eventually(t, "calls of a peer that is good", func() bool { return made.Load() >= 10 || t.Failed() })
		close(stopped)
		using.Wait()
	}
}
