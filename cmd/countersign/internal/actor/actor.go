package actor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
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

// Actor acts with an identity of its own. It makes one call at a time; it is safe for concurrent use. The zero value is not usable; see
// Processes and Sockets.
type Actor struct {
	spiffeID string
	// end ends the actor once it gets no more orders, and waits until it has.
	end func() error

	mu      sync.Mutex
	orders  *json.Encoder
	answers *json.Decoder
}

// Call is a call that an actor is to make.
type Call struct {
	// Server is the SPIFFE ID of the server, one of those that the actor was to call when it was made.
	Server string
	// Method is "package.Service/Method".
	Method string
	// TraceParent begins the trace that the call belongs to, and TransactionToken is shown with it; both may be empty.
	TraceParent, TransactionToken string
}

// meet waits for an actor to say who it is. It must call those that it is wanted to.
func meet(orders io.Writer, answers io.Reader, to []dial.Target, end func() error) (*Actor, error) {
	a := &Actor{orders: json.NewEncoder(orders), answers: json.NewDecoder(answers), end: end}
	var h hello
	err := a.answers.Decode(&h)
	switch {
	case err != nil:
		err = fmt.Errorf("it got no identity: %w", err)
	case h.Failure != "":
		err = fmt.Errorf("it got no identity: %s", h.Failure)
	default:
		err = h.calls(to)
	}
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	a.spiffeID = h.SPIFFEID
	return a, nil
}

// calls fails unless an actor calls all of these.
func (h hello) calls(to []dial.Target) error {
	for _, target := range to {
		if !slices.Contains(h.Servers, target.ID.String()) {
			return fmt.Errorf("it calls %s, and must call %s", strings.Join(h.Servers, ", "), target.ID)
		}
	}
	return nil
}

// SPIFFEID returns the identity that the actor was given.
func (a *Actor) SPIFFEID() string { return a.spiffeID }

// Call has the actor make a call. One that the server refused is a *dial.StatusError.
func (a *Actor) Call(c Call, request, response proto.Message) error {
	data, err := protojson.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode the request of %s: %w", c.Method, err)
	}
	got, err := a.exchange(order{Server: c.Server, Method: c.Method, Request: data, TraceParent: c.TraceParent, TransactionToken: c.TransactionToken})
	if err != nil {
		return fmt.Errorf("have the actor call %s: %w", c.Method, err)
	}
	if got.Status != nil {
		var s status.Status
		if err := proto.Unmarshal(got.Status, &s); err != nil {
			return fmt.Errorf("decode the status of %s: %w", c.Method, err)
		}
		return &dial.StatusError{Status: grpcstatus.FromProto(&s)}
	}
	if err := protojson.Unmarshal(got.Response, response); err != nil {
		return fmt.Errorf("decode the response of %s: %w", c.Method, err)
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
	if err := a.answers.Decode(&got); err != nil {
		return answer{}, err
	}
	if got.Failure != "" {
		return answer{}, errors.New(got.Failure)
	}
	return got, nil
}

// Close ends the actor and waits for it.
func (a *Actor) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.end()
}
