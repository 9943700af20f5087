package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
)

const (
	// stalledReaders is how many watches nobody reads, half of them at the gateway and half at payments.
	stalledReaders = 64
	// stalledWindow is how much a client takes of a stream that it does not read. It is gRPC's default, held where it is.
	stalledWindow = 65_535
)

// TestReadersWhoDoNotRead opens many watches of busy accounts and reads none of them. The memory of those who send does not grow with what
// happens, others see all that happens as it does, and a reader who reads on has missed nothing.
func TestReadersWhoDoNotRead(t *testing.T) {
	home := dist.NewHome(t)
	lenient(t, home)
	mesh := home.Apart(t)
	mesh.StartAll(t)
	operator := mesh.Identity(t, "operator")
	crowd := openCrowd(t, mesh, operator, 2, 0)
	stalled := stall(t, mesh, operator, crowd)
	watching, stopWatching := context.WithCancel(t.Context())
	defer stopWatching()
	reader := &watcher{name: "one who reads", account: crowd.accounts[0], open: changes(mesh.Dial(t, operator, "payments"))}
	reader.direct = reader.open
	read := make(chan struct{})
	t.Cleanup(func() { <-read })
	go func() { defer close(read); reader.watch(watching, t) }()

	paying, stop := context.WithCancel(t.Context())
	defer stop()
	wait := crowd.pay(paying, t, 8)
	crowd.waitForSome(t, 200)
	before := map[string]float64{"gateway": memory(t, mesh.Process("gateway").PID(), "VmRSS"), "payments": memory(t, mesh.Process("payments").PID(), "VmRSS")}
	// Sixty-four readers times so many payments times several changes would be many times as much as the processes have, if it were kept.
	more := int64(rounds(500, 8000))
	crowd.waitForSome(t, more)
	for service, first := range before {
		now := memory(t, mesh.Process(service).PID(), "VmRSS")
		t.Logf("%s: %.1f MiB with %d readers who do not read, and %.1f after %d more payments", service, first, stalledReaders, now, more)
		if now > 1.5*first {
			t.Errorf("%s has grown from %.1f to %.1f MiB", service, first, now)
		}
	}
	stop()
	wait()
	payments := newAuditor(t, mesh, operator).atRest(t, crowd)
	reader.check(t, payments)
	for _, w := range stalled[stalledReaders-16:] { // eight at each server
		want := w.history(t, payments)
		w.readOn(t, len(want))
		w.same(t, want)
	}
	if reader.cuts > 0 {
		t.Errorf("the one who reads was cut off %d times", reader.cuts)
	}
}

// stalledWatch is a watch that nobody reads at first.
type stalledWatch struct {
	*watcher
	receive func() (change, error)
}

// stall opens watches and reads the first message of each, which shows that it is open.
func stall(t *testing.T, mesh *bank.Apart, operator *bank.Identity, c *crowd) []stalledWatch {
	t.Helper()
	const streamsEach = 8
	var list []stalledWatch
	for n := 0; n < stalledReaders; n += 2 * streamsEach {
		for _, server := range []string{"gateway", "payments"} {
			account := c.accounts[n/(2*streamsEach)%len(c.accounts)] // of both customers, each of whom may have so many and no more
			small := grpc.WithStaticStreamWindowSize(stalledWindow)
			open, direct := activity(account.phone.Dial(t, small)), activity(account.phone.Conn())
			if server == "payments" {
				open = changes(bank.Dial(t, mesh.Address(server), credentials.NewTLS(operator.TLS(server)), small))
				direct = changes(mesh.Dial(t, operator, server))
			}
			for range streamsEach {
				w := &watcher{
					name: fmt.Sprintf("reader %d, at %s", len(list), server), account: account, phone: server == "gateway", open: open, direct: direct,
				}
				list = append(list, w.first(t))
			}
		}
	}
	return list
}

// first opens a watch and reads one message.
func (w *watcher) first(t *testing.T) stalledWatch {
	t.Helper()
	receive, err := w.open(t.Context(), w.account, "")
	if err != nil {
		t.Fatalf("%s: %v", w.name, err)
	}
	c, err := receive()
	if err != nil {
		t.Fatalf("%s: %v", w.name, err)
	}
	w.seen = append(w.seen, c)
	return stalledWatch{watcher: w, receive: receive}
}

// readOn reads until so many changes were seen.
func (w stalledWatch) readOn(t *testing.T, n int) {
	t.Helper()
	late := time.AfterFunc(30*time.Second, func() { t.Errorf("%s has seen %d changes, want %d", w.name, len(w.all()), n) })
	defer late.Stop()
	for len(w.all()) < n {
		c, err := w.receive()
		if err != nil {
			t.Fatalf("%s: after %d changes: %v", w.name, len(w.all()), err)
		}
		w.mu.Lock()
		w.seen = append(w.seen, c)
		w.mu.Unlock()
	}
}
