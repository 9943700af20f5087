package identity_test

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

func TestNewSaysWhatToDo(t *testing.T) {
	t.Parallel()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	api := func(err error) func(*testing.T) string {
		return func(t *testing.T) string {
			a := meshtest.NewWorkloadAPI(t)
			a.Fail(err)
			return a.Addr()
		}
	}
	at := func(addr string) func(*testing.T) string { return func(*testing.T) string { return addr } }
	for _, c := range []struct {
		name string
		addr func(*testing.T) string
		want []string
	}{
		{"no socket", at("unix:///no/such/agent.sock"), []string{"unix:///no/such/agent.sock", "no such socket", "countersign up", "SPIRE"}},
		{"no identity", api(status.Error(codes.PermissionDenied, "no identity issued")), []string{"no identity issued", "matches no registration entry", executable, fmt.Sprint("uid ", os.Getuid())}},
		{"not ready", api(status.Error(codes.Unavailable, "starting")), []string{"starting", "countersign up"}},
		{"not a Workload API", api(status.Error(codes.Unimplemented, "unknown service")), []string{"no SPIFFE Workload API"}},
		// ATTACKS 25
		{"no scheme", at("/run/agent.sock"), []string{`"/run/agent.sock"`, "unix:///run/spire/agent.sock"}},
		{"two slashes", at("unix://run/agent.sock"), []string{`"unix://run/agent.sock"`, "three slashes"}},
		{"a relative path", at("unix:agent.sock"), []string{`"unix:agent.sock"`, "opaque"}},
		{"a host name", at("tcp://localhost:8000"), []string{`"tcp://localhost:8000"`, "IP"}},
		{"an unknown scheme", at("http://127.0.0.1:8000"), []string{"http", "scheme"}},
		{"no URI", at("unix://%zz"), []string{"valid URI"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			source, err := identity.New(t.Context(), identity.WithSocket(c.addr(t)),
				identity.WithStartTimeout(300*time.Millisecond), identity.WithLogger(slog.New(slog.DiscardHandler)))
			if err == nil {
				_ = source.Close()
				t.Fatal("New succeeded")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error lacks %q: %v", want, err)
				}
			}
		})
	}
}

func TestNewWithoutSocket(t *testing.T) {
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", "")
	if _, err := identity.New(t.Context()); err == nil || !strings.Contains(err.Error(), "SPIFFE_ENDPOINT_SOCKET is not set") {
		t.Errorf("New = %v", err)
	}
}
