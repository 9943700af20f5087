package mesh_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/transport"
	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
)

const watchMethod = "/grpc.health.v1.Health/Watch"

// ledgerPolicy lets /payments call the echo service of /ledger. watch is who may watch the health of it, as a list of rules.
func ledgerPolicy(watch string) string {
	text := echoPolicy([]string{"/payments"})
	text = strings.Replace(text, "  test.v1.Echo:\n", "  test.v1.Echo:\n    served_by: [/ledger]\n", 1)
	text = strings.Replace(text, "grpc.health.v1.Health: {methods: {Check: {allow: []}", "grpc.health.v1.Health: {served_by: [/ledger], methods: {Check: {allow: [{peer: /operator}]}", 1)
	text = strings.Replace(text, "ListConnections: {allow: []}", "ListConnections: {allow: [{peer: /operator}]}", 1)
	return strings.Replace(text, "Watch: {allow: []}", "Watch: {allow: ["+watch+"]}", 1)
}

const paymentsWatch = "{peer: /payments}"

// Calls are spread over all replicas, and a replica that is not to be called gets none until it is again. Its connection stays, and no call fails.
func TestCallsGoToReplicasThatServe(t *testing.T) {
	t.Parallel()
	r := newRules(t, ledgerPolicy(paymentsWatch))
	for name, opts := range map[string][]mesh.DialOption{
		"by default":                       nil,
		"with a service config of its own": {mesh.WithServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newReplicas(t, r)
			conn := w.dial(t, r, opts...)
			w.shared(t, conn, 20, 20, 20)
			w.all[1].server.SetServing(false)
			w.shared(t, conn, 30, 0, 30)
			if n := len(w.client.Conns()); n != 3 {
				t.Errorf("%d connections, want 3: the one that is not called stays", n)
			}
			w.all[1].server.SetServing(true)
			w.shared(t, conn, 20, 20, 20)
			for i, one := range w.all {
				if allowed, denied := one.decided(watchMethod); allowed != 1 || denied != 0 {
					t.Errorf("server %d was asked for its health %d times, and %d times in vain; want once a connection", i, allowed, denied)
				}
			}
		})
	}
}

// A replica that drains costs no call, whether health is watched or not.
func TestAReplicaThatDrainsCostsNoCall(t *testing.T) {
	t.Parallel()
	for name, watch := range map[string]string{"health is watched": paymentsWatch, "health is not watched": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRules(t, ledgerPolicy(watch))
			w := newReplicas(t, r)
			conn := w.dial(t, r)
			w.shared(t, conn, 1, 1, 1)
			ctx, enough := context.WithCancel(t.Context())
			var calling sync.WaitGroup
			for range 8 {
				calling.Go(func() {
					for ctx.Err() == nil {
						if err := say(context.WithoutCancel(ctx), conn); err != nil {
							t.Errorf("a call: %v", err)
							return
						}
					}
				})
			}
			for _, one := range w.all[:2] {
				one.stop()
				before := w.all[2].calls()
				eventually(t, "calls go on", func() bool { return w.all[2].calls() > before+50 })
			}
			enough()
			calling.Wait()
		})
	}
}

// Whoever forgets the rule, or takes it away, loses the watch of health and no call: what the client's own policy says and what the server's says may differ, and
// gRPC takes a watch that is denied for a server that is down.
func TestACallerThatMayNotWatchHealthCallsAllTheSame(t *testing.T) {
	t.Parallel()
	allowed, forgotten := ledgerPolicy(paymentsWatch), ledgerPolicy("")
	t.Run("the own policy has no rule for it", func(t *testing.T) {
		t.Parallel()
		w := newReplicas(t, newRules(t, allowed))
		w.shared(t, w.dial(t, newRules(t, forgotten)), 20, 20, 20)
		for i, one := range w.all {
			if allowed, denied := one.decided(watchMethod); allowed+denied > 0 {
				t.Errorf("server %d was asked for its health %d times", i, allowed+denied)
			}
		}
	})
	t.Run("the server's policy has no rule for it", func(t *testing.T) {
		t.Parallel()
		w := newReplicas(t, newRules(t, forgotten))
		w.shared(t, w.dial(t, newRules(t, allowed)), 20, 20, 20)
		for i, one := range w.all {
			if allowed, denied := one.decided(watchMethod); allowed != 0 || denied != 1 {
				t.Errorf("server %d has let %d watches in and denied %d, want one that is denied", i, allowed, denied)
			}
		}
	})
	t.Run("the rule is taken away", func(t *testing.T) {
		t.Parallel()
		servers := newRules(t, allowed)
		w := newReplicas(t, servers)
		conn := w.dial(t, newRules(t, allowed))
		w.shared(t, conn, 20, 20, 20)
		servers.replace(t, forgotten)
		eventually(t, "the watches are denied", func() bool {
			for _, one := range w.all {
				if _, denied := one.decided(watchMethod); denied == 0 {
					return false
				}
			}
			return true
		})
		for range 20 { // it takes a moment until the client has noticed
			w.shared(t, conn, 2, 2, 2)
		}
		for i, one := range w.all {
			if allowed, denied := one.decided(watchMethod); allowed != 1 || denied != 1 {
				t.Errorf("server %d has let %d watches in and denied %d: it is asked again and again", i, allowed, denied)
			}
		}
		if n := w.client.Stats().Handshakes[transport.Outbound]; n != 3 {
			t.Errorf("%d handshakes, want 3", n)
		}
	})
	t.Run("the rule depends on what is watched", func(t *testing.T) {
		t.Parallel()
		r := newRules(t, ledgerPolicy(`{peer: /payments, when: request.service != ""}`))
		w := newReplicas(t, r)
		w.shared(t, w.dial(t, r), 20, 20, 20)
	})
}

// What a denied watch is answered with is the one difference to any other denial: it has a decision that an operator finds, and a caller is told its ID.
func TestADeniedWatchIsADenial(t *testing.T) {
	t.Parallel()
	r := newRules(t, ledgerPolicy(""))
	w := newReplicas(t, r)
	conn, err := mesh.DialUnlisted(w.client, w.all[0].addr, ledgerID())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	client := grpc_health_v1.NewHealthClient(conn)
	stream, err := client.Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	last := w.all[0].recorded.last(t)
	if last.Allowed || last.Method != watchMethod || last.Reason == "" {
		t.Errorf("recorded: %+v", last)
	}
	if st := status.Convert(err); st.Code() != codes.Unimplemented || st.Message() != "permission denied" || !strings.Contains(st.Proto().String(), last.ID.String()) {
		t.Errorf("the caller is told %v", st.Proto())
	}
	if _, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a check: %v", err)
	}
}

// Watches are open for as long as their clients are connected. However many there are, they take nothing from operators, nor from other streams; and
// who finds no room for one calls all the same.
func TestWatchesOfHealthKeepNobodyOut(t *testing.T) {
	t.Parallel()
	r := newRules(t, ledgerPolicy(paymentsWatch))
	w := newReplicas(t, r)
	w.all = w.all[:1]
	crowd, err := mesh.DialUnlisted(w.client, w.all[0].addr, ledgerID())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = crowd.Close() })
	open := func() error {
		stream, err := grpc_health_v1.NewHealthClient(crowd).Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
		if err != nil {
			return err
		}
		_, err = stream.Recv()
		return err
	}
	for n := range 384 { // three quarters, as one peer may have of any kind of slots
		if err := open(); err != nil {
			t.Fatalf("watch %d: %v", n, err)
		}
	}
	if err := open(); status.Code(err) != codes.Unimplemented {
		t.Errorf("one more: %v", err)
	}

	w.shared(t, w.dial(t, r), 20)
	stream, err := talk(t.Context(), crowd)
	if err != nil {
		t.Fatal(err)
	}
	if err := exchange(stream); err != nil {
		t.Errorf("another stream of the same peer: %v", err)
	}
	operator := newRegistry(t, newOwner(w.ca.SVID(t, "/operator"), w.ca.Bundle()))
	conn, err := mesh.DialUnlisted(operator, w.all[0].addr, ledgerID())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Errorf("an operator asks for health: %v", err)
	}
	if _, err := adminv1.NewAdminServiceClient(conn).ListConnections(ctx, &adminv1.ListConnectionsRequest{}); err != nil {
		t.Errorf("an operator asks for connections: %v", err)
	}
}
