package meshtest_test

import (
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/policy"
	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
)

// standard is every method that a server has before a service is registered.
func standard() map[string][]string {
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, grpc_health_v1.UnimplementedHealthServer{})
	grpc_reflection_v1.RegisterServerReflectionServer(server, grpc_reflection_v1.UnimplementedServerReflectionServer{})
	adminv1.RegisterAdminServiceServer(server, adminv1.UnimplementedAdminServiceServer{})
	served := make(map[string][]string)
	for name, info := range server.GetServiceInfo() {
		for _, method := range info.Methods {
			served[name] = append(served[name], method.Name)
		}
	}
	return served
}

func TestAPolicyIsCompletedWithDenials(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text string
		line       string // where the rule for /gateway stands
	}{
		{"a block", "trust_domain: bank.test\nservices:\n  a.v1.A:\n    methods:\n      Get:\n        allow:\n          - peer: /gateway\n", ":7"},
		{"a block without a last line break", "trust_domain: bank.test\nservices:\n  a.v1.A:\n    methods:\n      Get:\n        allow:\n          - peer: /gateway", ":7"},
		{"a block with another indent", "services:\n      a.v1.A: {methods: {Get: {allow: [{peer: /gateway}]}}}\ntrust_domain: bank.test\n", ":2"},
		{"a block before revocations", "trust_domain: bank.test\nservices:\n  a.v1.A: {methods: {Get: {allow: [{peer: /gateway}]}}}\n\n# Nobody yet.\nrevoked: []\n", ":3"},
		{"braces", "trust_domain: bank.test\nservices: {a.v1.A: {methods: {Get: {allow: [{peer: /gateway}]}}}}\n", ":2"},
		{"braces in braces", "{trust_domain: bank.test, services: {a.v1.A: {methods: {Get: {allow: [{peer: /gateway}]}}}}}", ":1"},
		{"braces after letters that are long in UTF-8", "{trust_domain: bank.test, revoked: [{id: /x, why: \"größer – ja\"}], services: {a.v1.A: {methods: {Get: {allow: [{peer: /gateway}]}}}}}", ":1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			parsed, err := policy.Parse("p", []byte(meshtest.DenyStandard(c.text)))
			if err != nil {
				t.Fatalf("%v in\n%s", err, meshtest.DenyStandard(c.text))
			}
			services := standard()
			if err := parsed.Covers(services); err != nil {
				t.Error(err)
			}
			gateway := &identity.Peer{ID: spiffeid.RequireFromString("spiffe://bank.test/gateway")}
			for name, methods := range services {
				for _, method := range methods {
					if v := parsed.Decide(policy.Call{Method: "/" + name + "/" + method, Peer: gateway}); v.Allowed {
						t.Errorf("%s/%s is allowed", name, method)
					}
				}
			}
			if v := parsed.Decide(policy.Call{Method: "/a.v1.A/Get", Peer: gateway}); !v.Allowed || !strings.Contains(v.Rule.Place(), c.line) {
				t.Errorf("a rule of the text became %+v, want it allowed by line %s", v, c.line)
			}
		})
	}
}

// What New adds must be what a server has: a service that servers come to have and that is not among them must be noticed.
func TestNewAddsWhatAServerHas(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", "trust_domain: bank.test\nservices: {a.v1.A: {methods: {Get: {}}}}\n")
	addr := m.Serve(t, "/ledger", nothing) // it fails when the policy does not fit
	_, err := adminv1.NewAdminServiceClient(m.Dial(t, "/operator", "/ledger", addr)).ListCuts(t.Context(), &adminv1.ListCutsRequest{})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("anybody may administer: %v", err)
	}
}

func TestAPolicyThatNamesAStandardServiceIsTakenAtItsWord(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"a service in part": "trust_domain: bank.test\nservices:\n  grpc.health.v1.Health: {methods: {Check: {}}}\n",
		"no policy":         "trust_domain: [",
		"no services":       "trust_domain: bank.test\n",
		"empty services":    "trust_domain: bank.test\nservices: {}\n",
		"nothing":           "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parsed, err := policy.Parse("p", []byte(meshtest.DenyStandard(text)))
			if err == nil && parsed.Covers(standard()) == nil {
				t.Errorf("a fault was mended:\n%s", meshtest.DenyStandard(text))
			}
		})
	}
}
