package mesh_test

import (
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc/resolver"
)

func TestMain(m *testing.M) {
	resolver.Register(replicasResolver{}) // before a test runs: it may not be called while there are connections
	goleak.VerifyTestMain(m)
}
