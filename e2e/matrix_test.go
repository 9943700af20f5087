package e2e

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// everybody is every identity of the mesh, and one that no rule names.
func everybody() []string {
	return append(bank.Services(), "operator", "stranger")
}

// testDenyMatrix calls every method of every service, taken from the descriptors, on every server as every identity, and
// compares with the policy twice: as the library reads it, and as a reading of the bare YAML has it that shares no code with it. ATTACKS 42, 43, 44.
func testDenyMatrix(t *testing.T, mesh *bank.Mesh) {
	text, err := os.ReadFile(mesh.Policy())
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := policy.Parse("bank.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	naive := readNaively(t, text)
	methods := bank.Methods()
	served := servedBy(t, mesh)
	allServed(t, methods, served)

	var letIn, denied int
	decisions := make(map[string]string)
	for _, actor := range everybody() {
		self := mesh.Identity(t, actor)
		id := spiffeid.RequireFromString(self.ID())
		for _, server := range bank.Services() {
			conn := mesh.Dial(t, self, server)
			for _, method := range methods {
				cell := actor + " → " + server + " " + method.Full
				// Each call is made with an empty request, which is what conditions are about, and for no customer, which is what some rules want first.
				want := parsed.Decide(policy.Call{Method: method.Full, Peer: &identity.Peer{ID: id}, Request: dynamicpb.NewMessage(method.Input), UserErr: policy.ErrNoUser}).Allowed
				if bare := naive[method.Full][self.ID()]; bare != conditional && (bare == allowed) != want {
					t.Errorf("%s: the library decides %t, the bare file says otherwise", cell, want)
				}
				err := bank.Call(t.Context(), conn, method)
				switch {
				case want && slices.Contains(served[server], method.Service):
					letIn++
					if !bank.LetIn(err) {
						t.Errorf("%s: want let in, got %v", cell, err)
					}
				case want: // allowed, but it is another server's
					if code := status.Code(err); code != codes.Unimplemented && code != codes.PermissionDenied {
						t.Errorf("%s: want UNIMPLEMENTED or PERMISSION_DENIED on a server that does not have it, got %v", cell, err)
					}
				default:
					denied++
					decision, wrong := bank.DecisionIDOf(method, err)
					if wrong != "" {
						t.Errorf("%s: %s", cell, wrong)
					} else if other, ok := decisions[decision]; ok {
						t.Errorf("%s has the decision ID of %s", cell, other)
					}
					decisions[decision] = cell
				}
			}
		}
	}
	t.Logf("%d identities × %d methods × %d servers: %d cells let in, %d denied",
		len(everybody()), len(methods), len(bank.Services()), letIn, denied)
	if letIn == 0 || denied == 0 {
		t.Error("a matrix with one colour tests nothing")
	}
}

// testUnknownMethod shows that a caller cannot find out which methods exist: what does not exist is denied like what does.
// ATTACKS 43.
func testUnknownMethod(t *testing.T, mesh *bank.Mesh) {
	for _, actor := range []string{"stranger", "operator", "payments"} {
		identity := mesh.Identity(t, actor)
		for _, server := range bank.Services() {
			conn := mesh.Dial(t, identity, server)
			for _, method := range []bank.Method{
				{Full: "/bank.ledger.v1.LedgerService/DropAllTables"},
				{Full: "/bank.ledger.v1.LedgerService/DropAllTables", ServerStream: true, ClientStream: true},
				{Full: "/bank.nothing.v1.NothingService/Do"},
				{Full: "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", ServerStream: true, ClientStream: true},
			} {
				if _, wrong := bank.DecisionID(bank.Call(t.Context(), conn, method)); wrong != "" {
					t.Errorf("%s → %s %s: %s", actor, server, method.Full, wrong)
				}
			}
		}
	}
}

// testMalformed sends what cannot be decoded to every method: whoever may not call it learns nothing from the difference between a
// method that exists and one that does not, and the call is recorded like any other. ATTACKS 42, 43.
func testMalformed(t *testing.T, mesh *bank.Mesh) {
	methods := append(bank.Methods(), bank.Method{Full: "/bank.ledger.v1.LedgerService/DropAllTables"})
	stranger := mesh.Identity(t, "stranger")
	decisions := make(map[string]string)
	for _, server := range bank.Services() {
		conn := mesh.Dial(t, stranger, server)
		for _, method := range methods {
			for _, test := range []struct {
				name    string
				request []byte
				opts    []grpc.CallOption
			}{
				{"no protobuf", []byte{0xff, 0xff, 0xff}, nil},
				{"a compression that the server does not have", nil, []grpc.CallOption{grpc.UseCompressor(gzip.Name)}},
				{"five mebibytes", make([]byte, 5<<20), nil},
				{"another codec", nil, []grpc.CallOption{grpc.CallContentSubtype("json")}},
			} {
				decision, wrong := bank.DecisionIDOf(method, bank.CallWith(t.Context(), conn, method, test.request, test.opts...))
				cell := server + " " + method.Full + ", " + test.name
				if wrong != "" {
					t.Errorf("%s: %s", cell, wrong)
				}
				decisions[decision] = cell
			}
		}
	}
	for decision, cell := range decisions {
		findDecision(t, mesh, mesh.Identity(t, "operator"), stranger, &auditv1.DecisionFilter{DecisionId: decision})
		t.Logf("%s is in the audit as %s", cell, decision)
		break // one of many; all take the same way
	}
}

// bare is what a reader of nothing but YAML makes of a method and a peer.
type bare int

const (
	nothing bare = iota
	allowed
	conditional
)

// readNaively reads a policy as nothing but YAML: method → SPIFFE ID → what is said of it when it calls for no customer. It knows what the bank's policy uses and refuses the rest.
func readNaively(t *testing.T, text []byte) map[string]map[string]bare {
	t.Helper()
	var file struct {
		TrustDomain string `yaml:"trust_domain"`
		Services    map[string]struct {
			Methods map[string]struct {
				Allow, Deny []struct {
					Peer, When, User string
					Shadow           bool
				}
			}
		}
		Include []any
		Shadow  bool
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Include) > 0 || file.Shadow {
		t.Fatal("the bank's policy has more than this reader knows")
	}
	rules := make(map[string]map[string]bare)
	for service, methods := range file.Services {
		for method, rule := range methods.Methods {
			peers := make(map[string]bare)
			for _, allow := range rule.Allow {
				if strings.Contains(allow.Peer, "*") || allow.Shadow || len(rule.Deny) > 0 {
					t.Fatal("the bank's policy has more than this reader knows")
				}
				if strings.HasPrefix(allow.Peer, "/") {
					allow.Peer = "spiffe://" + file.TrustDomain + allow.Peer
				}
				switch {
				case allow.User != "": // one of several rules for the peer may want a customer, and another none
				case allow.When == "":
					peers[allow.Peer] = allowed
				case peers[allow.Peer] == nothing:
					peers[allow.Peer] = conditional
				}
			}
			rules["/"+service+"/"+method] = peers
		}
	}
	return rules
}

// servedBy asks each server, as the operator, which services it serves.
func servedBy(t *testing.T, mesh *bank.Mesh) map[string][]string {
	t.Helper()
	operator := mesh.Identity(t, "operator")
	served := make(map[string][]string)
	for _, server := range bank.Services() {
		served[server] = bank.ServedBy(t, mesh.Dial(t, operator, server))
	}
	return served
}

// allServed checks that what the servers serve is what the descriptors have: a service that nobody serves would make the
// matrix smaller than it looks, and one without a descriptor would be missing in it.
func allServed(t *testing.T, methods []bank.Method, served map[string][]string) {
	t.Helper()
	known := make(map[string]bool)
	for _, m := range methods {
		known[m.Service] = true
	}
	for server, services := range served {
		for _, service := range services {
			if !known[service] {
				t.Errorf("%s serves %s, of which the tests have no descriptor", server, service)
			}
		}
		for _, service := range []string{"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "mesh.admin.v1.AdminService"} {
			if !slices.Contains(services, service) {
				t.Errorf("%s does not serve %s", server, service)
			}
		}
	}
	for service := range known {
		switch service {
		case "SpiffeWorkloadAPI":
			continue // is for processes of the same machine, on a unix socket
		case "bank.mobile.v1.MobileBankService":
			for server, services := range served {
				if slices.Contains(services, service) {
					t.Errorf("%s serves %s to the mesh, which is for customers", server, service)
				}
			}
			continue // is for customers, at the edge
		}
		if !slices.ContainsFunc(bank.Services(), func(server string) bool { return slices.Contains(served[server], service) }) {
			t.Errorf("nobody serves %s", service)
		}
	}
}
