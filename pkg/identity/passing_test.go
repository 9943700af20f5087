package identity_test

import (
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

var errDenied = status.Error(codes.PermissionDenied, "no identity issued")

// SPIRE's agent ends every stream with PERMISSION_DENIED when an authority is tainted, and grants the identity to whoever asks again.
func TestADenialInPassingWithdrawsNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const times = 3
	for i := range times {
		f.clock.jump(2 * time.Second)
		f.api.FailOnce(t, errDenied)
		eventually(t, "it is asked again", func() bool { return f.api.Streams() == i+2 })
		next := f.ca.SVID(t, "/payments")
		f.api.Grant(t, next, f.ca.Bundle())
		eventually(t, "the next SVID is in use", func() bool { return f.serial() == serialOf(next) })
	}
	if st := f.source.Status(); st.State != identity.StateFresh || strings.Contains(f.log.String(), "withdrawn") {
		t.Errorf("status = %+v; the log:\n%s", st, f.log)
	}
}

func TestADenialThatIsRepeatedWithdrawsTheIdentity(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.clock.jump(2 * time.Second)
	began := time.Now()
	f.api.Fail(errDenied)
	eventually(t, "the identity is withdrawn", func() bool { return f.source.Status().State == identity.StateWithdrawn })
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v to believe it", took)
	}
	if _, err := f.source.GetX509SVID(); !errors.Is(err, identity.ErrWithdrawn) {
		t.Errorf("the error is %v", err)
	}
}

// An API that grants and denies in turn is believed at once, so that it is asked with pauses.
func TestADenialOfWhatWasJustGrantedWithdrawsTheIdentity(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.api.FailOnce(t, errDenied)
	eventually(t, "the identity is withdrawn", func() bool { return strings.Contains(f.log.String(), "identity withdrawn") })
	eventually(t, "and granted again", func() bool { return f.source.Status().State == identity.StateFresh })
}

// fickle is a Workload API that grants the identity once, then denies it when it is told to, and answers nothing afterwards.
type fickle struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	grant   *workload.X509SVIDResponse
	deny    chan struct{}
	streams atomic.Int32
}

func (f *fickle) FetchX509SVID(_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	if f.streams.Add(1) == 1 {
		if err := stream.Send(f.grant); err != nil {
			return err
		}
		<-f.deny
		return errDenied
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

// once is a listener that serves its first connection only. The next ones are accepted, by the kernel, and nothing is said on them.
type once struct {
	net.Listener
	accepted atomic.Bool
	closed   chan struct{}
}

func (o *once) Accept() (net.Conn, error) {
	if o.accepted.Swap(true) {
		<-o.closed
	}
	return o.Listener.Accept()
}

func (o *once) Close() error {
	close(o.closed)
	return o.Listener.Close()
}

func TestADenialThatIsNotTakenBackInTimeWithdrawsTheIdentity(t *testing.T) {
	t.Parallel()
	f := openFickle(t, func(l net.Listener) net.Listener { return l })
	close(f.api.deny)
	eventually(t, "it is asked again", func() bool { return f.api.streams.Load() == 2 })
	f.withdrawn(t)
}

// The doubt covers the connection: it is over in time when what listens accepts and says nothing, which gRPC alone would wait five seconds for.
func TestADenialStandsInTimeWhenNobodySpeaksAtTheSocket(t *testing.T) {
	t.Parallel()
	f := openFickle(t, func(l net.Listener) net.Listener { return &once{Listener: l, closed: make(chan struct{})} })
	began := time.Now()
	close(f.api.deny)
	eventually(t, "it is asked again", func() bool { return strings.Contains(f.log.String(), "asking again") })
	f.withdrawn(t)
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("it took %v to believe it, want two seconds", took)
	}
}

// fickleFixture is a workload of a fickle API, which has granted the identity.
type fickleFixture struct {
	api    *fickle
	source *identity.Source
	log    *journal
}

// withdrawn waits until the identity is withdrawn, which it is not yet.
func (f *fickleFixture) withdrawn(t *testing.T) {
	t.Helper()
	if _, err := f.source.GetX509SVID(); err != nil {
		t.Errorf("while it is asked: %v", err)
	}
	eventually(t, "the identity is withdrawn", func() bool { return f.source.Status().State == identity.StateWithdrawn })
	if st := f.source.Status(); st.Err == nil || !strings.Contains(st.Err.Error(), "no identity issued") {
		t.Errorf("the reason is %v, want the denial", st.Err)
	}
}

// openFickle starts a fickle API behind a listener, and a workload that has been granted the identity for longer than is believed at once.
func openFickle(t *testing.T, behind func(net.Listener) net.Listener) *fickleFixture {
	t.Helper()
	ca := meshtest.NewCA(t, "bank.test")
	api := &fickle{grant: meshtest.Response(t, ca.Bundle(), nil, ca.SVID(t, "/payments")), deny: make(chan struct{})}
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	listener = behind(listener)
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, api)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	f := &fickleFixture{api: api, log: &journal{}}
	clock := &clock{}
	f.source, err = identity.New(t.Context(), identity.WithSocket("unix://"+path), identity.WithLogger(f.log.logger()), identity.WithSourceClock(clock.now))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.source.Close(); err != nil {
			t.Error(err)
		}
	})
	clock.jump(2 * time.Second)
	return f
}
