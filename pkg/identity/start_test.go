package identity_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// ATTACKS 21, 25: whatever there is in the identity's way, New waits for so long and then says what to do.
func TestNewSaysWhatToDo(t *testing.T) {
	t.Parallel()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	api := func(err error) func(*testing.T) string {
		return func(t *testing.T) string {
			a := meshtest.NewWorkloadAPI(t)
			a.Fail(err)
			return a.Addr()
		}
	}
	at := func(addr string) func(*testing.T) string { return func(*testing.T) string { return addr } }
	for _, c := range []struct {
		name string
		addr func(*testing.T) string
		want []string
	}{
		{"no socket", at("unix:///no/such/agent.sock"), []string{"unix:///no/such/agent.sock", "no such socket", "countersign up", "SPIRE"}},
		{"no identity", api(status.Error(codes.PermissionDenied, "no identity issued")), []string{"no identity issued", "matches no registration entry", executable, fmt.Sprint("uid ", os.Getuid())}},
		{"not ready", api(status.Error(codes.Unavailable, "starting")), []string{"starting", "countersign up"}},
		{"not a code that says much", api(status.Error(codes.Internal, "boom")), []string{"boom", "the log of the authority"}},
		{"silent", func(t *testing.T) string { return (&silent{times: math.MaxInt32}).listen(t) }, []string{"none within 1s", "it is silent"}},
		{"an identity that is not granted", func(t *testing.T) string {
			a, ca := meshtest.NewWorkloadAPI(t), meshtest.NewCA(t, "bank.test")
			a.Grant(t, ca.SVID(t, "/risk"), ca.Bundle())
			return a.Addr()
		}, []string{`asked for ID "spiffe://bank.test/payments"`, `offered ["spiffe://bank.test/risk"]`, "ask for one of those offered"}},
		{"not a Workload API", api(status.Error(codes.Unimplemented, "unknown service")), []string{"no SPIFFE Workload API"}},
		// ATTACKS 25: an address that is none is an error at once.
		{"no scheme", at("/run/agent.sock"), []string{`"/run/agent.sock"`, "unix:///run/spire/agent.sock"}},
		{"two slashes", at("unix://run/agent.sock"), []string{`"unix://run/agent.sock"`, "three slashes"}},
		{"a relative path", at("unix:agent.sock"), []string{`"unix:agent.sock"`, "opaque"}},
		{"a host name", at("tcp://localhost:8000"), []string{`"tcp://localhost:8000"`, "IP"}},
		{"an unknown scheme", at("http://127.0.0.1:8000"), []string{"http", "scheme"}},
		{"no URI", at("unix://%zz"), []string{"valid URI"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			source, err := identity.New(t.Context(), identity.WithSocket(c.addr(t)), identity.WithID(spiffeid.RequireFromString("spiffe://bank.test/payments")),
				identity.WithStartTimeout(time.Second), identity.WithLogger(slog.New(slog.DiscardHandler)))
			if err == nil {
				_ = source.Close()
				t.Fatal("New succeeded")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error lacks %q: %v", want, err)
				}
			}
		})
	}
}

// silent is a Workload API whose first streams are accepted and never answered.
type silent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	times   int32
	streams atomic.Int32
	answer  *workload.X509SVIDResponse
}

func (s *silent) FetchX509SVID(_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	if s.streams.Add(1) > s.times {
		if err := stream.Send(s.answer); err != nil {
			return err
		}
	}
	<-stream.Context().Done()
	return nil
}

// listen serves until the test ends, and returns the address.
func (s *silent) listen(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, s)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return "tcp://" + listener.Addr().String()
}

// ATTACKS 20: the first message is due at once (Workload API §4.3); a stream that brings none is given up and opened again.
func TestNewGivesUpASilentStream(t *testing.T) {
	t.Parallel()
	ca := meshtest.NewCA(t, "bank.test")
	api := &silent{times: 2, answer: meshtest.Response(t, ca.Bundle(), nil, ca.SVID(t, "/payments"))}
	source, err := identity.New(t.Context(), identity.WithSocket(api.listen(t)), identity.WithFirstMessage(100*time.Millisecond),
		identity.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if st := source.Status(); st.Failures < 2 {
		t.Errorf("status = %+v, want the silent streams counted", st)
	}
}

func TestNewEndsWithItsContext(t *testing.T) {
	t.Parallel()
	api := meshtest.NewWorkloadAPI(t)
	stopped := errors.New("the process was told to stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		for api.Streams() < 2 { // the first answer is known
			<-time.After(time.Millisecond)
		}
		cancel(stopped)
	}()
	_, err := identity.New(ctx, identity.WithSocket(api.Addr()), identity.WithLogger(slog.New(slog.DiscardHandler)), identity.WithStartTimeout(time.Hour))
	if !errors.Is(err, stopped) || status.Code(err) != codes.Unavailable {
		t.Errorf("New = %v, want why it was ended, and the last answer", err)
	}
}

func TestNewWithoutSocket(t *testing.T) {
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", "")
	if _, err := identity.New(t.Context()); err == nil || !strings.Contains(err.Error(), "SPIFFE_ENDPOINT_SOCKET is not set") {
		t.Errorf("New = %v", err)
	}
}
