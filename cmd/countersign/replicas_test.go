package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/site"
	"github.com/countersign-mesh/countersign/pkg/mesh"
)

// names are what a resolver knows.
type names map[string][]string

func (n names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	var addresses []netip.Addr
	for _, text := range n[host] {
		addresses = append(addresses, netip.MustParseAddr(text))
	}
	if addresses == nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return addresses, nil
}

// replicas is a bank whose mesh file has a ledger, and behind the name payments three servers, of which those that are stale do not watch the policy.
type replicas struct {
	*bank
	file  string
	names names
}

func newReplicas(t *testing.T, stale ...string) *replicas {
	t.Helper()
	r := &replicas{bank: newBank(t, "ledger"), names: names{"ledger.test": {"127.0.0.1"}}}
	port := "0"
	for _, host := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"} {
		listener, err := net.Listen("tcp", net.JoinHostPort(host, port))
		if err != nil {
			if runtime.GOOS == "linux" {
				t.Fatal(err)
			}
			t.Skipf("this machine does not listen there: %v", err) // Linux alone has the whole of 127.0.0.0/8 for sure
		}
		_, port, _ = net.SplitHostPort(listener.Addr().String())
		r.serveAt(t, listener, "payments", !slices.Contains(stale, host), func(*mesh.Server) {})
		r.names["payments.test"] = append(r.names["payments.test"], host)
	}
	r.add(t, "payments", "payments.test:"+port)
	r.file = r.meshFile(t, "")
	return r
}

// run runs a command of the operator.
func (r *replicas) run(t *testing.T, command interface {
	Run(ctx context.Context, s *session) error
},
) (stdout string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	err = command.Run(t.Context(), &session{
		dir: r.dir, mesh: site.Finder{File: r.file, Dir: r.dir, Resolver: r.names}, stdin: strings.NewReader(""), stdout: &out,
		out: console.New(&out, nil), err: console.New(&errs, nil), log: slog.New(slog.DiscardHandler),
	})
	return out.String(), err
}

// ATTACKS 37: one of several servers behind a name goes on believing who is revoked, and the others answer for it.
func TestRevokeAsksEachServerBehindAName(t *testing.T) {
	t.Parallel()
	r := newReplicas(t)
	out, err := r.run(t, &revokeCommand{ID: "/risk"})
	if err != nil || !strings.Contains(out, "In force at 4 of 4 servers, policy ") {
		t.Errorf("%v:\n%s", err, out)
	}
	r = newReplicas(t, "127.0.0.2")
	out, err = r.run(t, &revokeCommand{ID: "/risk"})
	if err == nil || exitCode(err) != 1 || !strings.Contains(err.Error(), "\npayments (127.0.0.2): it still has the policy ") ||
		strings.Contains(err.Error(), "127.0.0.1") || !strings.Contains(out, "In force at 3 of 4 servers, policy ") {
		t.Errorf("with a stale one: %v:\n%s", err, out)
	}
}

func TestPeersShowsThoseOfEachServerBehindAName(t *testing.T) {
	t.Parallel()
	r := newReplicas(t)
	peers := &peersCommand{server: server{Addr: "payments"}}
	out, err := r.run(t, peers)
	for _, host := range r.names["payments.test"] {
		if !strings.Contains(out, fmt.Sprintf("payments (%s)  spiffe://bank.test/operator", host)) {
			t.Errorf("%s is not asked (%v):\n%s", host, err, out)
		}
	}
	r.names["payments.test"] = append(r.names["payments.test"], "127.0.0.4") // where nobody is
	out, err = r.run(t, peers)
	if err == nil || !strings.HasPrefix(err.Error(), "1 of 4 servers could not be asked:\npayments (127.0.0.4): ") || !strings.Contains(out, "payments (127.0.0.3)") {
		t.Errorf("with one that is gone: %v:\n%s", err, out)
	}
}

func TestStatusShowsEachServerBehindAName(t *testing.T) {
	t.Parallel()
	r := newReplicas(t)
	r.add(t, "risk", "risk.test:8443") // which does not resolve
	r.file = r.meshFile(t, "")
	out, err := r.run(t, &statusCommand{})
	if err == nil || err.Error() != "4 of 5 servers are ready" || !strings.Contains(out, "payments (127.0.0.3)  ready") ||
		!strings.Contains(out, "\nrisk: find the addresses of risk.test: ") {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestApplyWaitsForEachServerBehindAName(t *testing.T) {
	t.Parallel()
	r := newReplicas(t)
	next := writeNew(t, r.bank, func(text string) string { return text + "# another\n" })
	apply := &policyApplyCommand{New: next, NoWatch: true, Yes: true}
	out, err := r.run(t, apply)
	if err != nil || !strings.Contains(out, "In force at 4 of 4 servers, policy ") {
		t.Errorf("%v:\n%s", err, out)
	}
	before := r.text(t)
	r.names["payments.test"] = append(r.names["payments.test"], "127.0.0.4") // where nobody is
	apply.New = writeNew(t, r.bank, func(text string) string { return text + "# and another\n" })
	out, err = r.run(t, apply)
	if err == nil || !strings.Contains(err.Error(), "payments (127.0.0.4): ") || r.text(t) != before {
		t.Errorf("with one that is gone: %v:\n%s", err, out)
	}
}

func TestExplainAsksEachServerBehindAName(t *testing.T) {
	t.Parallel()
	r := newReplicas(t, "127.0.0.3")
	if out, err := r.run(t, &revokeCommand{ID: "/risk"}); err == nil {
		t.Fatalf("nobody is stale:\n%s", out)
	}
	for name, explain := range map[string]*policyExplainCommand{
		"of all": {All: true}, "by name": {Server: []string{"ledger", "payments"}}, "by address": {Server: []string{"ledger", r.address(t, "payments")}, Expect: "/payments"},
	} {
		explain.Peer, explain.Method = "/risk", "PostTransfer"
		out, err := r.run(t, explain)
		if err == nil || !strings.HasPrefix(err.Error(), "the file and 1 of 4 servers do not agree:\npayments") || !strings.Contains(err.Error(), "(127.0.0.3): it has the policy ") {
			t.Errorf("%s: %v:\n%s", name, err, out)
		}
	}
}
