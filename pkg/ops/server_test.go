package ops_test

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/pkg/ops"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// reserve returns an address that nobody listens on.
func reserve(t *testing.T) string {
	t.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func TestAServerServesUntilItIsClosed(t *testing.T) {
	address := reserve(t) // not parallel to others, which might be given it too
	server, err := ops.Listen(t.Context(), address, ops.New(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	get := func() (string, error) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/livez", http.NoBody)
		if err != nil {
			return "", err
		}
		response, err := client.Do(request)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return string(body), err
	}
	if body, err := get(); err != nil || body != "ok\n" {
		t.Errorf("/livez answered %q, %v", body, err)
	}
	if second, err := ops.Listen(t.Context(), address, ops.New(prometheus.NewRegistry()), slog.New(slog.DiscardHandler)); err == nil {
		t.Errorf("a second server listens at the address of the first: %v", second.Close())
	}
	if err := server.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if body, err := get(); err == nil {
		t.Errorf("closed, and /livez answered %q", body)
	}
}
