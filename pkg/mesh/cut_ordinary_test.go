package mesh_test

import (
	"crypto/x509"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"google.golang.org/grpc"
)

// ATTACKS 36, 37, 45, ordinary: in. With go-spiffe's credentials and grpc-go's defaults the calls and the streams of a peer go on after its
// SVID has expired, its authority has left the bundle, the authorizer has begun to deny it.
func TestOrdinaryCallsGoOnWithoutTheIdentityOfTheirCaller(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		life  time.Duration
		spoil func(o *ordinary) time.Time
	}{
		{"ATTACKS 36: its SVID expires", 2 * time.Second, func(o *ordinary) time.Time { return o.client.svid.Certificates[0].NotAfter }},
		{"ATTACKS 37: its authority leaves the bundle", 0, func(o *ordinary) time.Time { o.server.trust(o.w.second); return time.Now() }},
		{"ATTACKS 37, 45: it is denied", 0, func(o *ordinary) time.Time { o.denied.Store(true); return time.Now() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			o := newOrdinary(t, test.life)
			stream, err := talk(t.Context(), o.conn)
			if err != nil {
				t.Fatal(err)
			}
			use := func() error { return errors.Join(say(t.Context(), o.conn), exchange(stream)) }
			if err := use(); err != nil {
				t.Fatal(err)
			}
			from := test.spoil(o)
			eventually(t, "calls go on for longer than the promise", func() bool {
				if err := use(); err != nil {
					t.Fatalf("%v after the end: %v", time.Since(from), err)
				}
				return time.Since(from) > promise
			})
		})
	}
}

// ordinary is the echo service with go-spiffe's credentials, and a client of it.
type ordinary struct {
	w              *world
	server, client *owner
	denied         atomic.Bool
	conn           *grpc.ClientConn
}

func newOrdinary(t *testing.T, life time.Duration) *ordinary {
	t.Helper()
	w := newWorld(t, doomedAndGood)
	o := &ordinary{w: w, server: newOwner(w.others.SVID(t, "/ledger"), w.both)}
	authorizer := func(spiffeid.ID, [][]*x509.Certificate) error {
		if o.denied.Load() {
			return errors.New("denied")
		}
		return nil
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(grpccredentials.MTLSServerCredentials(o.server, o.server, authorizer)))
	server.RegisterService(w.echo.service(), w.echo)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	for range 10 { // an SVID that lives for seconds may have expired before it is used
		o.client = newOwner(w.shortLived(t, "/doomed", life), w.both)
		creds := grpccredentials.MTLSClientCredentials(o.client, o.client, tlsconfig.AuthorizeAny())
		if o.conn, err = grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(creds)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = o.conn.Close() })
		if err = say(t.Context(), o.conn); err == nil {
			return o
		}
	}
	t.Fatal(err)
	return nil
}
