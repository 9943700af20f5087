package e2e

import (
	"testing"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
)

// TestMesh holds what can be asked of one mesh without disturbing it.
func TestMesh(t *testing.T) {
	mesh := dist.NewHome(t, everybody()...).Up(t, "--svid-ttl=1h")
	for _, test := range []struct {
		name string
		run  func(*testing.T, *bank.Mesh)
	}{
		{"every method denies everybody but those the policy names", testDenyMatrix},
		{"what does not exist is denied like what does", testUnknownMethod},
		{"what cannot be decoded is denied like what can", testMalformed},
		{"a path that is not well-formed is of no method", testRawPaths},
		{"a handshake without a good SVID is refused", testHandshakes},
		{"no server passes for another one", testServerNames},
		{"what a caller says about itself changes nothing", testClaims},
		{"stock grpcurl works as the README has it", testGrpcurl},
		{"countersign call verifies the server and says why it was denied", testCall},
		{"stock grpcurl works without certificates through countersign proxy", testProxy},
		{"a decision is found in the audit by its ID", testAudit},
		{"a process without an entry is told what is missing", testUnregistered},
		{"a port in use is said", testPortInUse},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, mesh) })
	}
}
