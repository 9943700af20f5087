package meshtest_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// nothing registers no service beside those that every server has.
func nothing(grpc.ServiceRegistrar) {}

func TestMesh(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", rules)
	addr := m.Serve(t, "/risk", register)
	for _, c := range []struct {
		from, to string
		want     codes.Code
	}{
		{"/payments", "/risk", codes.OK},
		{"/gateway", "/risk", codes.PermissionDenied},
		{"/payments", "/accounts", codes.Unavailable}, // the server is not who is dialled
		{"spiffe://bank.test/payments", "spiffe://bank.test/risk", codes.OK},
	} {
		t.Run(c.from+" dials "+c.to, func(t *testing.T) {
			t.Parallel()
			if err := assess(t, m.Dial(t, c.from, c.to, addr)); status.Code(err) != c.want {
				t.Errorf("err = %v, want %v", err, c.want)
			}
		})
	}
}

func TestNobodyMayCallWhatThePolicyDoesNotName(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", rules)
	addr := m.Serve(t, "/risk", register)
	for _, from := range []string{"/payments", "/gateway", "/risk"} {
		_, err := grpc_health_v1.NewHealthClient(m.Dial(t, from, "/risk", addr)).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s asks for health: %v, want PERMISSION_DENIED", from, err)
		}
	}
}

// A file that is to be deployed is taken as it stands: what it lacks is found.
func TestOpenAddsNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(path, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		mesh *meshtest.Mesh
		fits bool
	}{"New": {meshtest.New(t, "bank.test", rules), true}, "Open": {meshtest.Open(t, "bank.test", path), false}} {
		fake := &failing{TB: t}
		fake.run(func() { c.mesh.Serve(fake, "/risk", register) })
		if fake.failed == c.fits {
			t.Errorf("%s: a server was refused: %v, want %v", name, fake.failed, !c.fits)
		}
	}
}

func TestSetPolicyEndsATestWhosePolicyIsWrong(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", rules)
	_ = m.Serve(t, "/risk", register)
	for name, text := range map[string]string{
		"does not parse": "trust_domain: [",
		"does not fit":   "trust_domain: bank.test\nservices: {bank.risk.v1.RiskService: {methods: {Other: {}}}}\n",
	} {
		fake := &failing{TB: t}
		fake.run(func() { m.SetPolicy(fake, text) })
		if !fake.failed {
			t.Errorf("a policy that %s was taken", name)
		}
	}
	m.SetPolicy(t, rules)
}

// failing is a test that may fail without failing this one.
type failing struct {
	testing.TB
	failed bool
}

func (f *failing) Fatalf(format string, args ...any) {
	f.Logf("as wanted: "+format, args...)
	f.failed = true
	panic(f)
}

func (f *failing) run(do func()) {
	defer func() {
		if p := recover(); p != nil && p != any(f) {
			panic(p)
		}
	}()
	do()
}

func TestRotateAuthorityCutsNobodyAndRetireDoes(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", rules)
	addr := m.Serve(t, "/risk", register)
	conn := m.Dial(t, "/payments", "/risk", addr)
	for range 3 {
		if err := assess(t, conn); err != nil {
			t.Fatal(err)
		}
		m.RotateAuthority(t)
		if err := assess(t, m.Dial(t, "/payments", "/risk", addr)); err != nil {
			t.Fatalf("on a new connection: %v", err)
		}
	}
	if got := len(m.Identity(t, "/risk").Status().Authorities); got != 4 {
		t.Errorf("%d authorities, want the four there were", got)
	}
	m.CA().Retire()
	m.Rotate(t, "/risk")
	m.Rotate(t, "/payments")
	if got := len(m.Identity(t, "/risk").Status().Authorities); got != 1 {
		t.Errorf("%d authorities, want the newest only", got)
	}
	if err := assess(t, m.Dial(t, "/payments", "/risk", addr)); err != nil {
		t.Errorf("with the newest authority: %v", err)
	}
}

// What a new authority signed is shown to nobody who has not been sent its root.
func TestRotateAuthorityFailsNoHandshake(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", rules)
	addr := m.Serve(t, "/risk", register)
	_ = m.Identity(t, "/payments")
	stop, calls := make(chan struct{}), 0
	var calling sync.WaitGroup
	calling.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			conn := m.Dial(t, "/payments", "/risk", addr)
			if err := assess(t, conn); err != nil {
				t.Errorf("call %d: %v", calls, err)
			}
			_ = conn.Close()
			calls++
		}
	})
	for range 20 {
		m.RotateAuthority(t)
	}
	close(stop)
	calling.Wait()
	t.Logf("%d calls, each on a connection of its own", calls)
}

func TestServeTakesServerOptions(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", rules)
	conn := m.Dial(t, "/payments", "/risk", m.Serve(t, "/risk", register, mesh.WithRateLimit(0, 1)))
	var last error
	for range 2 {
		last = assess(t, conn)
	}
	if status.Code(last) != codes.ResourceExhausted {
		t.Errorf("second call: %v, want RESOURCE_EXHAUSTED", last)
	}
}

// within waits until a call gives an error of this code.
func within(ctx context.Context, t *testing.T, want codes.Code, call func() error) {
	t.Helper()
	for {
		err := call()
		if status.Code(err) == want {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("err = %v, want %v", err, want)
		default:
		}
	}
}
