package actor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/status"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
)

// goodbye is how long an actor may take to end after its orders have.
const goodbye = 5 * time.Second

// Actor is a process that acts with an identity of its own. It makes one call at a time; it is safe for concurrent use. The zero value
// is not usable; see Start.
type Actor struct {
	hello hello
	cmd   *exec.Cmd

	mu     sync.Mutex
	stdin  io.WriteCloser
	orders *json.Encoder
	answer *json.Decoder
	stderr bytes.Buffer
}

// Start starts the copy of the CLI at path, to call one server with the identity that it is given by the Workload API at
// endpoint. It lives until Close, or ctx ends.
func Start(ctx context.Context, path, endpoint string, to dial.Target) (*Actor, error) {
	//nolint:gosec // which program plays an actor is this command's to say
	a := &Actor{cmd: exec.CommandContext(ctx, path, "act", "--socket="+endpoint, "--expect="+to.ID.String(), to.Address)}
	a.cmd.Stderr = &a.stderr
	a.cmd.WaitDelay = goodbye
	stdin, err := a.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	stdout, err := a.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	a.stdin, a.orders, a.answer = stdin, json.NewEncoder(stdin), json.NewDecoder(stdout)
	if err := a.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	if err := a.answer.Decode(&a.hello); err != nil {
		return nil, errors.Join(fmt.Errorf("%s got no identity: %w", path, err), a.Close())
	}
	return a, nil
}

// SPIFFEID returns the identity that the actor was given.
func (a *Actor) SPIFFEID() string { return a.hello.SPIFFEID }

// Serial returns the serial number of the SVID that the actor began with, in lower-case hexadecimal.
func (a *Actor) Serial() string { return a.hello.Serial }

// Call has the actor call method, "package.Service/Method". A call that the server refused is a *dial.StatusError. traceParent may be
// empty.
func (a *Actor) Call(method, traceParent string, request, response proto.Message) error {
	data, err := protojson.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode the request of %s: %w", method, err)
	}
	got, err := a.exchange(order{Method: method, Request: data, TraceParent: traceParent})
	if err != nil {
		return fmt.Errorf("have the actor call %s: %w", method, err)
	}
	if got.Status != nil {
		var s status.Status
		if err := proto.Unmarshal(got.Status, &s); err != nil {
			return fmt.Errorf("decode the status of %s: %w", method, err)
		}
		return &dial.StatusError{Status: grpcstatus.FromProto(&s)}
	}
	if err := protojson.Unmarshal(got.Response, response); err != nil {
		return fmt.Errorf("decode the response of %s: %w", method, err)
	}
	return nil
}

func (a *Actor) exchange(o order) (answer, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.orders.Encode(o); err != nil {
		return answer{}, err
	}
	var got answer
	err := a.answer.Decode(&got)
	return got, err
}

// Close ends the actor and waits for it. The error has what it wrote to standard error if it failed.
func (a *Actor) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	closed := a.stdin.Close()
	if err := a.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", a.cmd.Path, err, strings.TrimSpace(a.stderr.String()))
	}
	return closed
}
