package identity_test

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// ATTACKS 24: a hint that stands twice is a fault of the server; the client is to take the first (Workload API §5.2.1).
func TestSourceChoosesAmongSeveral(t *testing.T) {
	t.Parallel()
	ca, api := meshtest.NewCA(t, "bank.test"), meshtest.NewWorkloadAPI(t)
	first, internal, second := ca.SVID(t, "/first"), ca.SVID(t, "/internal"), ca.SVID(t, "/second")
	internal.Hint, second.Hint = "internal", "internal"
	api.Send(meshtest.Response(t, ca.Bundle(), nil, first, internal, second))
	id := spiffeid.RequireFromPath(ca.TrustDomain(), "/second")
	absent := spiffeid.RequireFromPath(ca.TrustDomain(), "/absent")
	for _, c := range []struct {
		name string
		opts []identity.Option
		want string
	}{
		{"the first by default", nil, "/first"},
		{"by ID", []identity.Option{identity.WithID(id)}, "/second"},
		{"by hint, the first of two with the same (ATTACKS 24)", []identity.Option{identity.WithHint("internal")}, "/internal"},
		{"by ID and hint", []identity.Option{identity.WithID(id), identity.WithHint("internal")}, "/second"},
		{"an ID that is not there", []identity.Option{identity.WithID(absent)}, ""},
		{"a hint that is not there", []identity.Option{identity.WithHint("external")}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			opts := append([]identity.Option{identity.WithSocket(api.Addr()), identity.WithLogger(slog.New(slog.DiscardHandler)), identity.WithStartTimeout(time.Second)}, c.opts...)
			source, err := identity.New(t.Context(), opts...)
			if c.want == "" {
				if err == nil || !strings.Contains(err.Error(), "/first") {
					t.Fatalf("New = %v, want an error that names what was offered", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer source.Close()
			if got := source.ID().Path(); got != c.want {
				t.Errorf("ID = %s, want %s", got, c.want)
			}
		})
	}
}
