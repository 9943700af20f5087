package bank

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Metric returns the sum of a metric's time series, as a program's /metrics has them now.
func (a *Apart) Metric(t testing.TB, name, metric string) float64 {
	t.Helper()
	sum, found := a.metric(t, name, metric)
	if !found {
		t.Fatalf("%s has no metric %s", name, metric)
	}
	return sum
}

// Served returns how many calls of a method a process has answered with OK since its start.
func (a *Apart) Served(t testing.TB, name, service, method string) int {
	t.Helper()
	// There is no such series before the first.
	n, _ := a.metric(t, name, fmt.Sprintf(`grpc_server_handled_total{grpc_code="OK",grpc_method=%q,grpc_service=%q,grpc_type="unary"}`, method, service))
	return int(n)
}

func (a *Apart) metric(t testing.TB, name, metric string) (sum float64, found bool) {
	t.Helper()
	for line := range strings.Lines(Get(t, a.ops[name], "/metrics")) {
		// name{labels} value, in the text format of Prometheus.
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), metric)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		value, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			t.Fatalf("metrics of %s: %q: %v", name, line, err)
		}
		sum, found = sum+value, true
	}
	return sum, found
}

// Watched returns how many processes watch the authority's Workload API.
func (a *Apart) Watched(t testing.TB) int {
	t.Helper()
	n, _ := a.metric(t, "authority", "countersign_authority_streams") // there is no such series before the first has come
	return int(n)
}

// SVIDExpiry returns when the SVID of a service expires.
func (a *Apart) SVIDExpiry(t testing.TB, service string) time.Time {
	t.Helper()
	return time.Unix(int64(a.Metric(t, service, "countersign_svid_expiry_timestamp_seconds")), 0)
}

// SVIDRotations returns how many SVIDs a service has received after its first.
func (a *Apart) SVIDRotations(t testing.TB, service string) int {
	t.Helper()
	return int(a.Metric(t, service, "countersign_svid_rotations_total"))
}

// Ops returns where a program says how it is.
func (a *Apart) Ops(name string) string { return a.ops[name] }
