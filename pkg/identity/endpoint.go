package identity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// maxResponse bounds a response of the Workload API: an SVID and a few hundred federated bundles fit.
const maxResponse = 16 << 20

// endpoint is where the Workload API is.
type endpoint struct {
	addr   string // as it was configured
	target string // as gRPC has it
}

func newEndpoint(addr string) (endpoint, error) {
	from := "the Workload API address"
	if addr == "" {
		from = workloadapi.SocketEnv
		addr, _ = workloadapi.GetDefaultAddress()
	}
	if addr == "" {
		return endpoint{}, fmt.Errorf("no Workload API: %s is not set; it names the socket of the authority or of a SPIRE agent, such as unix:///run/spire/agent.sock", workloadapi.SocketEnv)
	}
	target, err := workloadapi.TargetFromAddress(addr)
	if err == nil && strings.HasPrefix(target, "unix://") && !strings.HasPrefix(target, "unix:///") {
		// The authority component must not be set (Workload Endpoint §4): two slashes would make the first folder a host.
		err = errors.New("a unix address has three slashes and an absolute path")
	}
	if err != nil {
		return endpoint{}, fmt.Errorf("%s is %q: %w; it must look like unix:///run/spire/agent.sock or tcp://127.0.0.1:8000", from, addr, err)
	}
	return endpoint{addr: addr, target: target}, nil
}

// open connects and asks for X.509-SVIDs. Each attempt has a connection of its own, so that the pace of retrying is the
// caller's alone.
func (e endpoint) open(ctx context.Context) (workload.SpiffeWorkloadAPI_FetchX509SVIDClient, *grpc.ClientConn, error) {
	conn, err := grpc.NewClient(e.target,
		// Workload Endpoint §3.1: transport security must not be required, the kernel vouches for both ends.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxResponse)),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 5 * time.Second}),
	)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to %s: %w", e.addr, err)
	}
	// Workload Endpoint §3: the header keeps a forged request of some other client of this machine out.
	ctx = metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
	stream, err := workload.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return stream, conn, nil
}

// startError is the error of New: what was tried, what came of it, what to do.
func startError(addr string, why, answer error) error {
	if answer == nil {
		answer = errors.New("none, it is silent")
	}
	return fmt.Errorf("no identity from the Workload API at %s: %w; last answer: %w; %s", addr, why, answer, remedy(addr, answer))
}

// remedy says what to do about the last answer of the Workload API.
func remedy(addr string, answer error) string {
	const start = "start the authority (countersign up) or point SPIFFE_ENDPOINT_SOCKET at a SPIRE agent"
	if path, ok := strings.CutPrefix(addr, "unix://"); ok {
		switch _, err := os.Stat(path); {
		case errors.Is(err, fs.ErrNotExist):
			return "there is no such socket: " + start
		case errors.Is(err, fs.ErrPermission):
			return "the socket's folder is not open to this user: run as the user that the mesh runs as"
		}
	}
	if errors.Is(answer, errNotGranted) {
		return "ask for one of those offered, or have the authority grant the one that is missing"
	}
	if broken, ok := errors.AsType[*RuleError](answer); ok && broken.Rule == "validity" {
		return fmt.Sprintf("compare this machine's clock (now %s) with the authority's", stamp(time.Now()))
	}
	switch status.Code(answer) {
	case codes.PermissionDenied:
		exe, err := os.Executable()
		if err != nil {
			exe = "unknown"
		}
		return fmt.Sprintf("this process matches no registration entry (executable %q, uid %d): the authority's log has its selectors, add an entry with them", exe, os.Getuid())
	case codes.Unavailable:
		return "nothing answers there: " + start
	case codes.Unimplemented:
		return "what listens there is no SPIFFE Workload API: " + start
	}
	return "the log of the authority or the SPIRE agent says more"
}
