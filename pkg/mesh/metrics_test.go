package mesh_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/settings"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
)

// process is a process under Run, with a risk service, that a test asks for its metrics.
type process struct {
	*mesh.Process
	addr string
}

// run starts a process; build may do more than serve.
func run(t *testing.T, m *meshtest.Mesh, path string, build func(p *mesh.Process) error) process {
	t.Helper()
	f := flags(t, m, path)
	ctx, stop := context.WithCancel(context.Background())
	built, ended := make(chan *mesh.Process, 1), make(chan error, 1)
	go func() {
		ended <- mesh.Run(ctx, f, func(_ context.Context, p *mesh.Process) error {
			server, err := p.NewServer()
			if err != nil {
				return err
			}
			(&risk{}).register(server)
			if build != nil {
				if err := build(p); err != nil {
					return err
				}
			}
			built <- p
			return nil
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	waitReady(t, f.OpsListen)
	return process{Process: <-built, addr: string(f.Listen)}
}

// series returns what a scrape gets, as Prometheus writes it: name{label="value"}.
func (p process) series(t *testing.T) map[string]float64 {
	t.Helper()
	families, err := p.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]float64)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			name := family.GetName()
			var labels []string
			for _, label := range metric.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", label.GetName(), label.GetValue()))
			}
			if labels != nil {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			all[name] = metric.GetGauge().GetValue() + metric.GetCounter().GetValue()
		}
	}
	return all
}

// within is a range of values, both ends included. One number is a range of its own.
type within [2]float64

func exactly(value float64) within { return within{value, value} }

var (
	atLeastOne = within{1, 1e9}
	negative   = within{-1e9, -1e-9}
	absent     = within{1, 0}
)

// await waits until all of these series are as they should be in one scrape.
func (p process) await(t *testing.T, what string, want map[string]within) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		got := p.series(t)
		var wrong []string
		for name, r := range want {
			value, ok := got[name]
			if ok == (r == absent) || ok && (value < r[0] || value > r[1]) {
				wrong = append(wrong, fmt.Sprintf("%s = %v (there: %t), want %v", name, value, ok, r))
			}
		}
		if wrong == nil {
			return
		}
		select {
		case <-deadline:
			slices.Sort(wrong)
			t.Fatalf("%s:\n%s", what, strings.Join(wrong, "\n"))
		case <-tick.C:
		}
	}
}

func authoritySeries(m *meshtest.Mesh) string {
	authorities := m.CA().Bundle().X509Authorities()
	return fmt.Sprintf("countersign_bundle_authority_remaining_seconds{authority=%q,trust_domain=%q}",
		identity.AuthorityOf(authorities[len(authorities)-1]), m.CA().TrustDomain().Name())
}

// shorten grants the risk service an SVID that expires within a test. On a machine that stands still meanwhile it has expired before it
// arrives, and is refused: the next one lives longer.
func (p process) shorten(t *testing.T, m *meshtest.Mesh) {
	t.Helper()
	for life := 3 * time.Second; life < 20*time.Second; life *= 2 {
		svid := m.CA().SVID(t, "/risk", meshtest.Lifetime(life))
		m.API(t, "/risk").Grant(t, svid, m.CA().Bundle())
		expired := time.After(life)
		for waiting := true; waiting; {
			changed := p.Identity.Changed()
			if p.Identity.Status().Serial == svid.Certificates[0].SerialNumber.Text(16) {
				return
			}
			select {
			case <-changed:
			case <-expired:
				waiting = false
			}
		}
	}
	t.Fatalf("no short-lived SVID was taken: %s", p.Identity.Status())
}

func TestMetricsFollowTheIdentity(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	p := run(t, m, "/risk", nil)
	api, oldest := m.API(t, "/risk"), authoritySeries(m)
	day := within{23 * 3600, 24 * 3600}
	p.await(t, "at the start", map[string]within{
		"countersign_svid_remaining_seconds":        {3000, 3600},
		"countersign_svid_lifetime_seconds":         {3625, 3635}, // meshtest dates half a minute back
		"countersign_svid_rotations_total":          exactly(0),
		"countersign_identity_state":                exactly(float64(identity.StateFresh)),
		"countersign_workload_api_connected":        exactly(1),
		"countersign_workload_api_failures_total":   exactly(0),
		"countersign_policy_stale":                  exactly(0),
		"countersign_policy_failures_total":         exactly(0),
		"countersign_svid_expiry_timestamp_seconds": {float64(time.Now().Unix()), float64(time.Now().Add(time.Hour).Unix())},
		oldest: day,
	})

	m.CA().NewRoot(t)
	newest := authoritySeries(m)
	api.Grant(t, m.CA().SVID(t, "/risk", meshtest.Lifetime(10*time.Minute)), m.CA().Bundle())
	p.await(t, "after a rotation to another authority", map[string]within{
		"countersign_svid_remaining_seconds": {300, 600},
		"countersign_svid_lifetime_seconds":  {625, 635},
		"countersign_svid_rotations_total":   exactly(1),
		oldest:                               day, newest: day,
	})
	m.CA().Retire()
	p.shorten(t, m)
	rotations := float64(p.Identity.Status().Rotations)
	p.await(t, "after the old authority has left the bundle", map[string]within{
		"countersign_svid_rotations_total": exactly(max(2, rotations)),
		oldest:                             absent, newest: day,
	})

	api.Stop()
	p.await(t, "while the Workload API is away", map[string]within{
		"countersign_workload_api_connected":      exactly(0),
		"countersign_workload_api_failures_total": atLeastOne,
	})
	p.await(t, "after the SVID has expired", map[string]within{
		"countersign_svid_remaining_seconds": negative,
		"countersign_identity_state":         exactly(float64(identity.StateExpired)),
	})
	api.Grant(t, m.CA().SVID(t, "/risk"), m.CA().Bundle())
	api.Start(t)
	p.await(t, "when the Workload API is back", map[string]within{
		"countersign_svid_remaining_seconds": {3000, 3600},
		"countersign_svid_rotations_total":   exactly(rotations + 1),
		"countersign_identity_state":         exactly(float64(identity.StateFresh)),
		"countersign_workload_api_connected": exactly(1),
	})
	api.Fail(status.Error(codes.PermissionDenied, "no entry"))
	p.await(t, "after the identity was withdrawn", map[string]within{
		"countersign_identity_state": exactly(float64(identity.StateWithdrawn)),
	})
}

func TestMetricsFollowTheConnections(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	target := settings.Target(m.Serve(t, "/payments", (&payments{}).register))
	var right, wrong *grpc.ClientConn
	p := run(t, m, "/risk", func(p *mesh.Process) (err error) {
		if right, err = p.Dial(target, "/payments"); err != nil {
			return err
		}
		wrong, err = p.Dial(target, "/ledger")
		return err
	})
	call := func(conn *grpc.ClientConn, want codes.Code) {
		t.Helper()
		if _, err := riskv1.NewRiskServiceClient(conn).AssessPayment(t.Context(), request()); status.Code(err) != want {
			t.Errorf("the call ended with %v, want %s", err, want)
		}
	}
	const (
		inbound  = `countersign_connections{direction="inbound",peer="spiffe://bank.test/payments"}`
		outbound = `countersign_connections{direction="outbound",peer="spiffe://bank.test/payments"}`

		accepted  = `countersign_handshakes_total{direction="inbound"}`
		dialled   = `countersign_handshakes_total{direction="outbound"}`
		tooLong   = `countersign_handshake_failures_total{direction="inbound",reason="leaf-lifetime"}`
		notLedger = `countersign_handshake_failures_total{direction="outbound",reason="wrong-server"}`
		cutIn     = `countersign_connections_cut_total{direction="inbound",reason="untrusted"}`
		cutOut    = `countersign_connections_cut_total{direction="outbound",reason="untrusted"}`
	)
	p.await(t, "at the start, so that rates are known from the first time on", map[string]within{
		inbound: absent, accepted: exactly(0), tooLong: exactly(0), cutIn: exactly(0),
		outbound: absent, dialled: exactly(0), notLedger: exactly(0), cutOut: exactly(0),
		`countersign_connections_cut_total{direction="inbound",reason="expired"}`:       exactly(0),
		`countersign_connections_cut_total{direction="inbound",reason="revoked"}`:       exactly(0),
		`countersign_connections_cut_total{direction="outbound",reason="own-identity"}`: exactly(0),
		`countersign_connections_renewed_total`:                                         exactly(0),
	})

	call(m.Dial(t, "/payments", "/risk", p.addr), codes.OK)
	call(right, codes.PermissionDenied)
	p.await(t, "with a connection in either direction", map[string]within{
		inbound: exactly(1), accepted: exactly(1), tooLong: exactly(0), cutIn: exactly(0),
		outbound: exactly(1), dialled: exactly(1), notLedger: exactly(0), cutOut: exactly(0),
	})

	m.Rotate(t, "/gateway", meshtest.Lifetime(1000*time.Hour))
	call(m.Dial(t, "/gateway", "/risk", p.addr), codes.Unavailable)
	call(wrong, codes.Unavailable)
	p.await(t, "after refused handshakes", map[string]within{
		inbound: exactly(1), accepted: exactly(1), tooLong: atLeastOne, cutIn: exactly(0),
		outbound: exactly(1), dialled: exactly(1), notLedger: atLeastOne, cutOut: exactly(0),
	})

	m.CA().NewRoot(t)
	m.CA().Retire()
	m.API(t, "/risk").Grant(t, m.CA().SVID(t, "/risk"), m.CA().Bundle())
	p.await(t, "after the authority of the peers has left the bundle", map[string]within{
		inbound: absent, accepted: exactly(1), cutIn: exactly(1),
		outbound: absent, dialled: exactly(1), cutOut: exactly(1),
	})
}

func TestMetricsCountRenewals(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	p := run(t, m, "/risk", nil)
	m.Rotate(t, "/payments", meshtest.Lifetime(4*time.Second))
	client := riskv1.NewRiskServiceClient(m.Dial(t, "/payments", "/risk", p.addr))
	if _, err := client.AssessPayment(t.Context(), request()); err != nil {
		t.Fatal(err)
	}
	p.await(t, "at half of the client's SVID", map[string]within{"countersign_connections_renewed_total": atLeastOne})
}

// What promlint finds is what makes a metric hard to use with others: units, suffixes, help.
func TestMetricsAreNamedAsPrometheusWantsThem(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	p := run(t, m, "/risk", func(p *mesh.Process) error {
		_, err := p.AuditTo("passthrough:///127.0.0.1:1") // nobody is there, and there is nothing to send
		return err
	})
	if _, err := riskv1.NewRiskServiceClient(m.Dial(t, "/payments", "/risk", p.addr)).AssessPayment(t.Context(), request()); err != nil {
		t.Fatal(err)
	}
	families, err := p.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		t.Errorf("%s: %s", problem.Metric, problem.Text)
	}
}
