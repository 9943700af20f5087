package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

const (
	// closedWithin is how soon after an SVID's expiry nothing is accepted any more.
	closedWithin = time.Second
	// backWithin is how soon after the authority's return everything goes on.
	backWithin = 5 * time.Second
)

// route is a way that calls take, and the services on it without which they fail.
type route struct {
	caller   string
	services []string
}

// outage is one time without the authority.
type outage struct {
	killed, launched, ready time.Time
	// expiry is when the SVID of each service expired meanwhile.
	expiry map[string]time.Time
}

// first returns when the first of these services' SVIDs expired.
func (o outage) first(services ...string) time.Time {
	first := o.expiry[services[0]]
	for _, s := range services[1:] {
		if o.expiry[s].Before(first) {
			first = o.expiry[s]
		}
	}
	return first
}

// TestAuthorityOutage takes the authority away until every SVID has expired. Calls go on until then, no hop accepts one that begins
// more than a second later, and all of them go on within five seconds of the authority's return. The operator has an SVID of an hour and customers
// have none, and both have grpc-go as it comes: what ends their calls is the mesh. ATTACKS 27, 36.
func TestAuthorityOutage(t *testing.T) {
	home := dist.NewHome(t)
	untiring(t, home)
	home.LongLived(t, "operator")
	mesh := home.Apart(t)
	mesh.Flags["authority"] = []string{"--svid-ttl=10s"}
	mesh.StartInOrder(t)
	calling := bank.NewCallers(t)
	routes := callEverywhere(t, mesh, calling)
	for range rounds(1, 5) {
		o := beWithoutAuthority(t, mesh, calling, routes)
		for _, r := range routes {
			r.check(t, o, calling.Outcomes(r.caller))
		}
		checkHops(t, mesh, o)
	}
	calling.Stop()
}

// callEverywhere starts callers of every service, of the whole way of a payment, and of the half of it that does not begin at
// the gateway, and returns the routes that they take.
func callEverywhere(t *testing.T, mesh *bank.Apart, calling *bank.Callers) []route {
	t.Helper()
	operator := mesh.Identity(t, "operator")
	customers := openFor(t, mesh, operator, 4, 1_000_000)
	var routes []route
	for _, c := range customers {
		calling.Add(t.Context(), payFrom(c), c.name)
		routes = append(routes, route{c.name, []string{"gateway", "login", "accounts", "payments", "risk", "ledger"}})
	}
	counter := paymentsv1.NewPaymentServiceClient(mesh.Dial(t, operator, "payments"))
	calling.Add(t.Context(), func(ctx context.Context, _ string, n int) error {
		response, err := counter.DepositCash(ctx, &paymentsv1.DepositCashRequest{
			RequestId: fmt.Sprintf("cash-at-the-counter-%06d", n), AccountId: customers[0].shop, Amount: euros(1),
		})
		if err == nil && response.GetPayment().GetState() != paymentsv1.PaymentState_PAYMENT_STATE_POSTED {
			err = fmt.Errorf("%v", response.GetPayment().GetState())
		}
		return err
	}, "counter")
	routes = append(routes, route{"counter", []string{"accounts", "payments", "ledger"}})
	for _, service := range bank.Services() {
		conn := mesh.Dial(t, operator, service)
		caller := "operator of " + service
		calling.Add(t.Context(), func(ctx context.Context, _ string, _ int) error { return bank.Healthy(ctx, conn) }, caller)
		routes = append(routes, route{caller, []string{service}})
	}
	return routes
}

// beWithoutAuthority kills the authority, waits until the last SVID has expired and two seconds more, starts it again, and waits
// until every route has been taken again.
func beWithoutAuthority(t *testing.T, mesh *bank.Apart, calling *bank.Callers, routes []route) outage {
	t.Helper()
	bank.Eventually(t, 20*time.Second, func() string { return notTaken(calling, routes, time.Now().Add(-time.Second)) })
	mesh.Process("authority").Signal(t, syscall.SIGKILL)
	mesh.Process("authority").Wait(t, 5*time.Second)
	o := outage{killed: time.Now(), expiry: make(map[string]time.Time)}
	bank.Eventually(t, time.Minute, func() string {
		for _, service := range bank.Services() {
			o.expiry[service] = mesh.SVIDExpiry(t, service)
			if over := time.Since(o.expiry[service]); over < closedWithin+time.Second {
				return fmt.Sprintf("the SVID of %s expires in %v", service, -over)
			}
		}
		return ""
	})
	o.launched = time.Now()
	mesh.Start(t, "authority")
	o.ready = time.Now()
	bank.Eventually(t, 30*time.Second, func() string { return notTaken(calling, routes, o.ready) })
	return o
}

// notTaken says which route no call has taken to its end since then.
func notTaken(calling *bank.Callers, routes []route, since time.Time) string {
	for _, r := range routes {
		outcomes := calling.Outcomes(r.caller)
		if !slices.ContainsFunc(outcomes, func(o bank.Outcome) bool { return o.Err == nil && o.Begin.After(since) }) {
			return r.caller + " has had no call answered:\n" + bank.Describe(outcomes[max(0, len(outcomes)-1):])
		}
	}
	return ""
}

// check holds what the calls of a route came to against the outage.
func (r route) check(t *testing.T, o outage, outcomes []bank.Outcome) {
	t.Helper()
	expired := o.first(r.services...)
	var early, late []bank.Outcome
	var last, back time.Time
	for _, c := range outcomes {
		switch ok := c.Err == nil; {
		case c.End.Before(o.killed):
		case !ok && c.End.Before(expired):
			early = append(early, c)
		case ok && c.Begin.After(expired.Add(closedWithin)) && c.End.Before(o.launched):
			late = append(late, c)
		case ok && c.End.Before(o.launched):
			last = c.Begin
		case ok && back.IsZero() && c.End.After(o.ready):
			back = c.End
		}
	}
	if len(early) > 0 {
		t.Errorf("%s: %d calls failed while every SVID was good, until %s:\n%s", r.caller, len(early), expired.Format(time.TimeOnly), bank.Describe(early))
	}
	if len(late) > 0 {
		t.Errorf("%s: %d calls that were begun more than %v after the expiry at %s were answered:\n%s",
			r.caller, len(late), closedWithin, expired.Format(time.TimeOnly), bank.Describe(late))
	}
	after := back.Sub(o.ready)
	if back.IsZero() || after > backWithin {
		t.Errorf("%s: goes on %v after the authority was ready again, want %v or less", r.caller, after, backWithin)
	}
	t.Logf("%-22s last accepted call begun %4d ms after the first expiry on its way; goes on %4d ms after the authority was ready, %4d ms after its start",
		r.caller, last.Sub(expired).Milliseconds(), after.Milliseconds(), back.Sub(o.launched).Milliseconds())
}

// reported waits until every service has reported decisions of after a moment, and with them all those of before.
func reported(t *testing.T, mesh *bank.Apart, client auditv1.AuditServiceClient, moment time.Time) {
	t.Helper()
	for _, service := range bank.Services() {
		bank.Eventually(t, 30*time.Second, func() string {
			page, err := client.ListDecisions(t.Context(), &auditv1.ListDecisionsRequest{PageSize: 1, Filter: &auditv1.DecisionFilter{
				ServerId: "spiffe://bank.test/" + service, StartTime: timestamppb.New(moment), Verdict: auditv1.Verdict_VERDICT_ALLOWED,
			}})
			if err != nil {
				return err.Error()
			}
			if len(page.GetRecords()) == 0 {
				return service + " has reported nothing since"
			}
			return ""
		})
		if service == "audit" {
			continue // its decisions go no way that could be closed
		}
		if lost := mesh.Metric(t, service, "countersign_audit_lost_total"); lost > 0 {
			t.Errorf("%s has lost %.0f decisions", service, lost)
		}
	}
}

// checkHops looks in the audit for a call that one service let another make more than a second after the SVID of either had expired:
// those are the hops that no caller from outside can see.
func checkHops(t *testing.T, mesh *bank.Apart, o outage) {
	t.Helper()
	client := auditv1.NewAuditServiceClient(mesh.Dial(t, mesh.Identity(t, "operator"), "audit"))
	reported(t, mesh, client, o.ready)
	hops := make(map[string]time.Duration) // how long after the expiry the last call was let in
	for token := ""; ; {
		page, err := client.ListDecisions(t.Context(), &auditv1.ListDecisionsRequest{PageSize: 1000, PageToken: token, Filter: &auditv1.DecisionFilter{
			Verdict: auditv1.Verdict_VERDICT_ALLOWED, StartTime: timestamppb.New(o.killed), EndTime: timestamppb.New(o.launched),
		}})
		if err != nil {
			t.Fatal(err)
		}
		for _, record := range page.GetRecords() {
			d := record.GetDecision()
			server, peer := strings.TrimPrefix(d.GetServerId(), "spiffe://bank.test/"), strings.TrimPrefix(d.GetPeerId(), "spiffe://bank.test/")
			ends := []string{server}
			if _, ok := o.expiry[peer]; ok {
				ends = append(ends, peer)
			}
			hop := peer + " → " + server
			after := d.GetDecideTime().AsTime().Sub(o.first(ends...))
			if before, ok := hops[hop]; !ok || after > before {
				hops[hop] = after
			}
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	for _, hop := range []string{"gateway → login", "gateway → accounts", "gateway → payments", "payments → accounts", "payments → risk", "payments → ledger"} {
		if _, ok := hops[hop]; !ok {
			t.Errorf("the audit has no call %s, so this test shows nothing about it", hop)
		}
	}
	for hop, after := range hops {
		if after > closedWithin {
			t.Errorf("%s: a call was let in %v after the first expiry of the two", hop, after)
		}
		t.Logf("%-22s last call let in %5d ms after the first expiry of the two", hop, after.Milliseconds())
	}
}

// TestAuthorityKilled kills the authority with SIGKILL twenty times, also while it starts, under eight phones that pay and workloads that ask without a
// pause. None of their calls fails, and the trust domain is the same afterwards. ATTACKS 27, 40.
func TestAuthorityKilled(t *testing.T) {
	t.Parallel()
	mesh := shortLived(t, 10*time.Second, time.Hour)
	mesh.StartInOrder(t)
	before := mesh.Identity(t, "operator")
	customers := openFor(t, mesh, before, 8, 1_000_000)
	calling := bank.NewCallers(t)
	askLedger(t, mesh, calling)
	members := len(bank.Services()) + 2
	calling.Add(t.Context(), payFrom(customers...), customerNames(customers)...)

	kill := func() {
		mesh.Process("authority").Signal(t, syscall.SIGKILL)
		mesh.Process("authority").Wait(t, 5*time.Second)
	}
	kills := rounds(20, 200)
	begin := time.Now()
	for i := range kills {
		if i%4 == 3 { // the fourth comes while it starts after the third
			mesh.Launch(t, "authority")
			pause(t, rand.N(60*time.Millisecond)) // it is ready after some forty
		} else {
			// As many as come back to it, each for a new SVID: whoever lived through the last kill has an SVID to live through this.
			bank.Eventually(t, 10*time.Second, func() string {
				if n := mesh.Watched(t); n < members {
					return fmt.Sprintf("%d of %d watch the Workload API", n, members)
				}
				return ""
			})
			pause(t, rand.N(200*time.Millisecond))
		}
		kill()
		pause(t, rand.N(500*time.Millisecond))
		if i%4 != 2 {
			mesh.Start(t, "authority")
		}
	}
	lasted := time.Since(begin)
	outcomes := calling.Stop()

	failed := bank.Failures(outcomes)
	if len(failed) > 0 {
		t.Errorf("%d of %d calls failed:\n%s", len(failed), len(outcomes), bank.Describe(failed))
	}
	var rotations int
	for _, service := range bank.Services() {
		n := mesh.SVIDRotations(t, service)
		rotations += n
		if n < kills/4 {
			t.Errorf("%s has had %d SVIDs after %d kills: the authority was not back often enough to be missed", service, n, kills)
		}
	}
	t.Logf("%d calls through %d kills in %v, %d failed; %d rotations of SVIDs; %s",
		len(outcomes), kills, lasted.Round(time.Second), len(failed), rotations, bank.Durations(outcomes))
	after := mesh.Identity(t, "operator")
	if !after.Roots.Equal(before.Roots) {
		t.Error("the trust domain has other authorities after the kills")
	}
	checkBooks(t, mesh, after, customers)
}

// pause lets some time pass.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}
