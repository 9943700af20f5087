package meshtest

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// WorkloadAPI is a SPIFFE Workload API for one workload, on a unix socket, that answers what the test says. It is safe for
// concurrent use. Until it is told something it answers UNAVAILABLE.
type WorkloadAPI struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	path string

	mu      sync.Mutex
	resp    *workload.X509SVIDResponse
	err     error
	changed chan struct{} // closed when resp or err change
	broken  chan error    // carries the end of one stream
	streams int
	server  *grpc.Server
	serving sync.WaitGroup
}

// NewWorkloadAPI starts a Workload API that ends with the test.
func NewWorkloadAPI(t testing.TB) *WorkloadAPI {
	t.Helper()
	// t.TempDir makes paths that are too long for a socket's address, which has 104 bytes on some systems.
	dir, err := os.MkdirTemp("", "wl") //nolint:usetesting // see above
	if err != nil {
		t.Fatalf("make a folder for the socket: %v", err)
	}
	a := &WorkloadAPI{
		path:    filepath.Join(dir, "s"),
		err:     status.Error(codes.Unavailable, "not ready"),
		changed: make(chan struct{}),
		broken:  make(chan error),
	}
	a.Start(t)
	t.Cleanup(func() {
		a.Stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the socket's folder: %v", err)
		}
	})
	return a
}

// Addr returns the value for SPIFFE_ENDPOINT_SOCKET.
func (a *WorkloadAPI) Addr() string { return "unix://" + a.path }

// Start serves again after Stop, at the same address.
func (a *WorkloadAPI) Start(t testing.TB) {
	t.Helper()
	listener, err := net.Listen("unix", a.path)
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, a)
	a.server = server
	a.serving.Go(func() { _ = server.Serve(listener) })
}

// Stop ends every stream and removes the socket.
func (a *WorkloadAPI) Stop() {
	a.mu.Lock()
	server := a.server
	a.mu.Unlock()
	server.Stop()
	a.serving.Wait()
}

// Grant sends an SVID with its trust domain's bundle and the bundles of federated trust domains, now and to each later call.
func (a *WorkloadAPI) Grant(t testing.TB, svid *x509svid.SVID, bundle *x509bundle.Bundle, federated ...*x509bundle.Bundle) {
	t.Helper()
	a.Send(Response(t, bundle, federated, svid))
}

// Send sends a response, now and to each later call.
func (a *WorkloadAPI) Send(resp *workload.X509SVIDResponse) { a.set(resp, nil) }

// Fail ends every stream with an error, now and at each later call, until the next Grant or Send. An error with
// codes.PermissionDenied withdraws the identity.
func (a *WorkloadAPI) Fail(err error) { a.set(nil, err) }

// FailOnce ends one open stream with an error; the next call is answered as before. It waits until there is a stream, or the test ends.
func (a *WorkloadAPI) FailOnce(t testing.TB, err error) {
	t.Helper()
	select {
	case a.broken <- err:
	case <-t.Context().Done():
		t.Error("no stream to end")
	}
}

// Streams returns how often an X.509-SVID was asked for.
func (a *WorkloadAPI) Streams() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.streams
}

func (a *WorkloadAPI) set(resp *workload.X509SVIDResponse, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.resp, a.err = resp, err
	close(a.changed)
	a.changed = make(chan struct{})
}

// FetchX509SVID implements the Workload API.
func (a *WorkloadAPI) FetchX509SVID(_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	if err := checkHeader(stream.Context()); err != nil {
		return err
	}
	a.mu.Lock()
	a.streams++
	a.mu.Unlock()
	for {
		a.mu.Lock()
		resp, err, changed := a.resp, a.err, a.changed
		a.mu.Unlock()
		if err != nil {
			return err
		}
		if err := stream.Send(resp); err != nil {
			return err
		}
		select {
		case <-changed:
		case err := <-a.broken:
			return err
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func checkHeader(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get("workload.spiffe.io"); len(v) != 1 || v[0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	return nil
}

// Response returns a response with these SVIDs, all with the same bundle, and the bundles of federated trust domains. A test of
// what a client refuses changes it before Send.
func Response(t testing.TB, bundle *x509bundle.Bundle, federated []*x509bundle.Bundle, svids ...*x509svid.SVID) *workload.X509SVIDResponse {
	t.Helper()
	resp := &workload.X509SVIDResponse{FederatedBundles: map[string][]byte{}}
	for _, svid := range svids {
		certs, key, err := svid.MarshalRaw()
		if err != nil {
			t.Fatalf("marshal SVID: %v", err)
		}
		resp.Svids = append(resp.Svids, &workload.X509SVID{
			SpiffeId:    svid.ID.String(),
			X509Svid:    certs,
			X509SvidKey: key,
			Bundle:      concat(bundle),
			Hint:        svid.Hint,
		})
	}
	for _, b := range federated {
		resp.FederatedBundles[b.TrustDomain().IDString()] = concat(b)
	}
	return resp
}

func concat(bundle *x509bundle.Bundle) []byte {
	var der []byte
	for _, cert := range bundle.X509Authorities() {
		der = append(der, cert.Raw...)
	}
	return der
}
