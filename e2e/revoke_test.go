package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

// cutMetric counts the connections that a service has cut because their peers were revoked.
const cutMetric = `countersign_connections_cut_total{direction="inbound",reason="revoked"}`

// suspect is an actor that is going to be revoked, with what it does until then.
type suspect struct {
	actor string
	// servers are those that it may call.
	servers []string
	// call calls a server, watch opens a stream that messages flow on.
	call  func(ctx context.Context, conn *grpc.ClientConn) error
	watch func(ctx context.Context, identity *bank.Identity) (receive func() error, err error)
}

// TestRevocation revokes workloads of a running mesh, by an edit of its policy file, while they watch payments and call over open
// connections: the operator, who may call everybody, and one who may call payments alone. They have crypto/tls and grpc-go as they come, and their SVIDs
// are good for an hour. ATTACKS 37.
func TestRevocation(t *testing.T) {
	home := dist.NewHome(t, "observer")
	untiring(t, home)
	home.Edit(t, home.Policy(), bank.Replace(t, operatorWatches, operatorWatches+"          - peer: /observer\n            why: this test\n"))
	mesh := home.Apart(t)
	mesh.StartAll(t)
	customers := openFor(t, mesh, mesh.Identity(t, "operator"), 1, 1_000_000)
	feeding := feed(t, customers[0])

	var streams, calls []time.Duration
	suspects := []suspect{suspectedOperator(t, mesh, customers[0]), suspectedObserver(t, mesh, customers[0])}
	for trial := range rounds(10, 60) {
		s := suspects[trial%2]
		by := []string{"ID", "serial number"}[trial/2%2]
		t.Run(fmt.Sprintf("%d: %s by %s", trial, s.actor, by), func(t *testing.T) {
			stream, call := s.revoke(t, mesh, by)
			streams, calls = append(streams, stream), append(calls, call)
		})
	}
	if failed := bank.Failures(feeding.Stop()); len(failed) > 0 {
		t.Errorf("%d calls of a peer that nobody revoked failed:\n%s", len(failed), bank.Describe(failed))
	}
	t.Logf("from the revocation to the last message of a stream: %s", spread(streams))
	t.Logf("from the revocation to the last answer to a call:     %s", spread(calls))
}

// operatorWatches is the rule by which the operator watches payments.
const operatorWatches = `          - peer: /operator
            why: watches payments go through
`

// feed makes payments of a customer without a pause, so that there is something to watch. They come from the customer's phone, which nobody revokes
// here.
func feed(t *testing.T, c *customer) *bank.Callers {
	t.Helper()
	feeding := bank.NewCallers(t)
	feeding.Add(t.Context(), func(ctx context.Context, caller string, n int) error {
		request := c.nth(n)
		request.RequestId = fmt.Sprintf("%s-%06d", caller, n)
		_, err := c.phone.Bank().Transfer(ctx, request)
		return err
	}, "feeder-0", "feeder-1")
	return feeding
}

// watchPayments opens a watch of a customer's payments at payments.
func watchPayments(t *testing.T, mesh *bank.Apart, c *customer) func(context.Context, *bank.Identity) (func() error, error) {
	t.Helper()
	return func(ctx context.Context, identity *bank.Identity) (func() error, error) {
		stream, err := paymentsv1.NewPaymentServiceClient(mesh.Dial(t, identity, "payments")).
			WatchPayments(ctx, &paymentsv1.WatchPaymentsRequest{AccountId: c.account})
		return func() error { _, err := stream.Recv(); return err }, err
	}
}

func suspectedOperator(t *testing.T, mesh *bank.Apart, c *customer) suspect {
	t.Helper()
	return suspect{
		actor: "operator", servers: bank.Services(),
		call:  func(ctx context.Context, conn *grpc.ClientConn) error { return bank.Healthy(ctx, conn) },
		watch: watchPayments(t, mesh, c),
	}
}

// suspectedObserver calls in the way that it may: its call is a watch, and ends with the first message.
func suspectedObserver(t *testing.T, mesh *bank.Apart, c *customer) suspect {
	t.Helper()
	return suspect{
		actor: "observer", servers: []string{"payments"},
		call: func(ctx context.Context, conn *grpc.ClientConn) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			stream, err := paymentsv1.NewPaymentServiceClient(conn).WatchPayments(ctx, &paymentsv1.WatchPaymentsRequest{AccountId: c.account})
			if err != nil {
				return err
			}
			_, err = stream.Recv()
			return err
		},
		watch: watchPayments(t, mesh, c),
	}
}

// revoke lets the suspect go about its business, revokes it, holds what it gets against the promise, and takes the revocation back.
// It returns how long after the revocation the last message of the stream and the last answer to a call came.
func (s suspect) revoke(t *testing.T, mesh *bank.Apart, by string) (lastMessage, lastAnswer time.Duration) {
	identity := mesh.Identity(t, s.actor)
	original, err := os.ReadFile(mesh.Policy())
	if err != nil {
		t.Fatal(err)
	}
	entry := "id: /" + s.actor
	if by == "serial number" {
		entry = "serial: " + identity.Serial()
	}
	watched := s.startWatch(t, identity)
	calling := bank.NewCallers(t)
	before := make(map[string]float64)
	for _, server := range s.servers {
		before[server] = mesh.Metric(t, server, cutMetric)
		conn := mesh.Dial(t, identity, server)
		calling.Add(t.Context(), func(ctx context.Context, _ string, _ int) error { return s.call(ctx, conn) }, server)
	}
	bank.Eventually(t, 10*time.Second, func() string { return s.notBusy(watched, calling) })

	revoked := time.Now()
	rename(t, mesh.Policy(), string(original)+"\nrevoked:\n  - "+entry+"\n    why: this test\n")
	// A second more than was promised, so that what comes too late is seen.
	bank.Eventually(t, promise+time.Second, func() string { return s.goesOn(watched, calling, revoked) })
	calling.Stop()

	lastMessage = max(0, watched.last().Sub(revoked))
	if lastMessage > promise {
		t.Errorf("a message came %v after the revocation", lastMessage)
	}
	if code := status.Code(watched.ended()); code != codes.Unauthenticated && code != codes.PermissionDenied {
		t.Errorf("the stream ended with %v", watched.ended())
	}
	for _, server := range s.servers {
		lastAnswer = max(lastAnswer, checkRefused(t, server, calling.Outcomes(server), revoked))
		// A call may be refused a moment before the connection that it came on is cut.
		bank.Eventually(t, promise, func() string {
			if mesh.Metric(t, server, cutMetric) > before[server] {
				return ""
			}
			return server + " has refused calls and cut no connection"
		})
	}
	s.checkShutOut(t, mesh, identity, by)
	s.letIn(t, mesh, identity, string(original))
	return lastMessage, lastAnswer
}

// notBusy says what of the suspect's business has not begun yet.
func (s suspect) notBusy(watched *watch, calling *bank.Callers) string {
	if err := watched.ended(); err != nil {
		return "the stream has ended: " + err.Error()
	}
	if watched.last().IsZero() {
		return "no message has come"
	}
	for _, server := range s.servers {
		if outcomes := calling.Outcomes(server); len(outcomes) == 0 || outcomes[len(outcomes)-1].Err != nil {
			return "not let in by " + server + ":\n" + bank.Describe(outcomes[max(0, len(outcomes)-1):])
		}
	}
	return ""
}

// goesOn says what of the suspect's business goes on.
func (s suspect) goesOn(watched *watch, calling *bank.Callers, revoked time.Time) string {
	if watched.ended() == nil {
		return fmt.Sprintf("the stream goes on %v after the revocation", time.Since(revoked))
	}
	for _, server := range s.servers {
		if len(bank.Failures(calling.Outcomes(server))) == 0 {
			return fmt.Sprintf("%s goes on answering %v after the revocation", server, time.Since(revoked))
		}
	}
	return ""
}

// checkRefused looks at the calls to one server, and returns how long after the revocation the last answer came.
func checkRefused(t *testing.T, server string, outcomes []bank.Outcome, revoked time.Time) time.Duration {
	t.Helper()
	i := slices.IndexFunc(outcomes, func(o bank.Outcome) bool { return o.Err != nil })
	first := outcomes[i]
	if code := status.Code(first.Err); code != codes.Unauthenticated && code != codes.PermissionDenied || first.End.Before(revoked) {
		t.Errorf("%s: the first call to fail, %v after the revocation, failed with %v", server, first.End.Sub(revoked), first.Err)
	}
	if slices.ContainsFunc(outcomes[i:], func(o bank.Outcome) bool { return o.Err == nil }) {
		t.Errorf("%s: a call was answered after one was refused", server)
	}
	last := max(0, outcomes[max(0, i-1)].End.Sub(revoked))
	if last > promise {
		t.Errorf("%s: a call was answered %v after the revocation", server, last)
	}
	return last
}

// checkShutOut shows that a new connection is refused in the handshake, and that a new SVID helps if one SVID was revoked and does
// not if the identity was.
func (s suspect) checkShutOut(t *testing.T, mesh *bank.Apart, identity *bank.Identity, by string) {
	t.Helper()
	renewed := mesh.Identity(t, s.actor)
	for _, server := range s.servers {
		for _, i := range []*bank.Identity{identity, renewed} {
			config := i.TLS(server)
			config.NextProtos = []string{"h2"}
			want := i == identity || by == "ID"
			if err := speak(t.Context(), mesh.Address(server), config); want != (err != nil) {
				t.Errorf("%s, an SVID got before the revocation %t: want refused %t, got %v", server, i == identity, want, err)
			}
		}
	}
}

// letIn takes the revocation back and waits until the suspect is let in again.
func (s suspect) letIn(t *testing.T, mesh *bank.Apart, identity *bank.Identity, original string) {
	t.Helper()
	rename(t, mesh.Policy(), original)
	for _, server := range s.servers {
		conn := mesh.Dial(t, identity, server)
		bank.Eventually(t, 5*time.Second, func() string {
			if err := s.call(t.Context(), conn); err != nil {
				return server + ": " + err.Error()
			}
			return ""
		})
	}
}

// watch is a stream that is read to its end. It is safe for concurrent use.
type watch struct {
	mu      sync.Mutex
	message time.Time
	err     error
}

func (s suspect) startWatch(t *testing.T, identity *bank.Identity) *watch {
	t.Helper()
	receive, err := s.watch(t.Context(), identity)
	if err != nil {
		t.Fatal(err)
	}
	return newWatch(receive)
}

// newWatch reads a stream until it ends, as it does with the test at the latest.
func newWatch(receive func() error) *watch {
	w := new(watch)
	go func() { // ends with the stream, and that with the test
		for {
			err := receive()
			w.mu.Lock()
			if w.err = err; err == nil {
				w.message = time.Now()
			}
			w.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return w
}

// last returns when the last message came; the zero time when none did.
func (w *watch) last() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.message
}

// ended returns the stream's error, nil while it goes on.
func (w *watch) ended() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// spread says how long something took, over all trials.
func spread(all []time.Duration) string {
	if len(all) == 0 {
		return "no trial"
	}
	slices.Sort(all)
	var texts []string
	for _, at := range []struct {
		name  string
		index int
	}{{"least", 0}, {"median", len(all) / 2}, {"most", len(all) - 1}} {
		texts = append(texts, fmt.Sprintf("%s %d ms", at.name, all[at.index].Milliseconds()))
	}
	return fmt.Sprintf("%s of %d trials", strings.Join(texts, ", "), len(all))
}
