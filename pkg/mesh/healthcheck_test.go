package mesh_test

import (
	"bytes"
	"net"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/ops"
)

// The command is to ask where the service listens, with the same settings and with none.
func TestHealthcheckAsksWhereTheServiceListens(t *testing.T) {
	t.Setenv("LEDGER_OPS_LISTEN", "")
	flag, ok := reflect.TypeFor[mesh.Flags]().FieldByName("OpsListen")
	if !ok {
		t.Fatal("there is no flag --ops-listen")
	}
	var out bytes.Buffer
	if err := mesh.Healthcheck(t.Context(), "ledger", []string{"--timeout=1ns"}, &out); err == nil || !strings.Contains(err.Error(), "http://"+flag.Tag.Get("default")+"/readyz") {
		t.Errorf("it asks somewhere else: %v", err)
	}
	server := httptest.NewServer(ops.New(prometheus.NewRegistry()))
	t.Cleanup(server.Close)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("LEDGER_OPS_LISTEN", "0.0.0.0:"+port)
	if err := mesh.Healthcheck(t.Context(), "ledger", nil, &out); err != nil || out.String() != "ready\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}
