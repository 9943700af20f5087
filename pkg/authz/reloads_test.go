package authz_test

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/countersign-mesh/countersign/pkg/audit"
	"github.com/countersign-mesh/countersign/pkg/authz"
)

// reloads is how often the policy changes below.
const reloads = 10_000

// editions are policies that differ in everything that a decision is made of: who is allowed, where the rule stands, and whether there is a
// condition. Each has a version of its own.
func editions() []string {
	var all []string
	for i := range 6 {
		own, other, when := "/payments", "/risk", ""
		if i%2 == 1 {
			own, other = other, own
		}
		if i == 0 { // one of them: what takes the time of a reload is to compile conditions
			when = `, when: request.transfer_id != ""`
		}
		all = append(all, strings.Repeat("#\n", i)+fmt.Sprintf(`trust_domain: bank.test
services:
  bank.ledger.v1.LedgerService:
    methods:
      PostTransfer:
        allow:
          - {peer: %s%s}
        deny:
          - {peer: %s}
`, own, when, other))
	}
	return all
}

// consistent is a recorder that compares each decision with what the policy of its version says of such a call.
type consistent struct {
	t       *testing.T
	want    map[string]map[string]audit.Decision // by version and peer
	checked atomic.Int64
}

func (c *consistent) Record(d audit.Decision) {
	c.checked.Add(1)
	want, ok := c.want[d.PolicyVersion][d.PeerID]
	if !ok {
		c.t.Errorf("a decision of policy %q on %q", d.PolicyVersion, d.PeerID)
		return
	}
	if d.Allowed != want.Allowed || d.Rule != want.Rule || d.Reason != want.Reason {
		c.t.Errorf("policy %s decided %t by %q (%s) on %s; it says %t by %q (%s)",
			d.PolicyVersion, d.Allowed, d.Rule, d.Reason, d.PeerID, want.Allowed, want.Rule, want.Reason)
	}
}

// Unary calls and streams go on while the policy changes ten thousand times. Each decision that is recorded is one that the policy of its version makes:
// verdict, rule and reason fit the version, always. ATTACKS 50.
func TestNoDecisionMixesTwoPoliciesOverTenThousandReloads(t *testing.T) {
	t.Parallel()
	texts := editions()
	check := &consistent{t: t, want: make(map[string]map[string]audit.Decision)}
	for _, text := range texts {
		parsed := mustParse(t, text)
		check.want[parsed.Version()] = make(map[string]audit.Decision)
		for _, peer := range []spiffeid.ID{payments, risk} {
			call := callOf(post, peer)
			call.Request = transfer("t")
			v := parsed.Decide(call)
			check.want[parsed.Version()][peer.String()] = audit.Decision{Allowed: v.Allowed, Rule: v.Rule.Place(), Reason: v.Reason}
		}
	}
	path := filepath.Join(t.TempDir(), "p.yaml")
	write(t, path, texts[0])
	quiet := slog.New(slog.DiscardHandler)
	file, err := authz.Open(path, authz.WithFileLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	guard := authz.NewGuard(file, authz.WithRecorder(check), authz.WithLogger(quiet))

	// Each reload has calls and streams beside it, a few of each: as many as can be would only take the machine from other tests.
	turns := make(chan struct{}, 100)
	var load sync.WaitGroup
	for _, peer := range []spiffeid.ID{payments, risk} {
		load.Go(func() { callAt(turns, guard, peer) })
		load.Go(func() { streamAt(turns, guard, peer) })
	}
	for i := range reloads {
		for range 5 {
			turns <- struct{}{}
		}
		file.Refresh(t.Context(), texts[i%len(texts)])
	}
	close(turns)
	load.Wait()
	if status := file.Status(); status.Failure != nil || status.Version != mustParse(t, texts[(reloads-1)%len(texts)]).Version() {
		t.Errorf("after the last reload: %+v", status)
	}
	t.Logf("%d decisions over %d reloads", check.checked.Load(), reloads)
	if check.checked.Load() < reloads {
		t.Error("too few decisions to say anything")
	}
}

func callAt(turns <-chan struct{}, guard *authz.Guard, peer spiffeid.ID) {
	for range turns {
		_, _ = callWith(guard, peer, post, transfer("t"))
	}
}

// streamAt opens streams of one request, on which answers go back until the policy ends them.
func streamAt(turns <-chan struct{}, guard *authz.Guard, peer spiffeid.ID) {
	for range turns {
		ss := &incoming{stream: stream{ctx: callFrom(peer)}, messages: []proto.Message{transfer("t")}}
		_ = guard.Stream()(nil, ss, &grpc.StreamServerInfo{FullMethod: post}, func(_ any, ss grpc.ServerStream) error {
			if err := receive(ss); err != nil {
				return err
			}
			for range 20 {
				if err := ss.SendMsg(nil); err != nil {
					return err
				}
			}
			return nil
		})
	}
}
