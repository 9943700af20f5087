package mesh

import (
	"fmt"
	"maps"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// An alert that compares two figures must not see one from before a rotation and one from after it.
func TestAScrapeAsksOnce(t *testing.T) {
	t.Parallel()
	asked := 0
	same := func(n int) float64 { return float64(n) }
	c := collector[int]{func() int { asked++; return asked }, []metric[int]{
		gauge("first", "Help.", same), counter("second_total", "Help.", same),
	}}
	metrics := prometheus.NewPedanticRegistry()
	metrics.MustRegister(c)
	for scrape := 1; scrape <= 2; scrape++ {
		families, err := metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		first, second := families[0].GetMetric()[0].GetGauge().GetValue(), families[1].GetMetric()[0].GetCounter().GetValue()
		if first != float64(scrape) || second != float64(scrape) {
			t.Errorf("scrape %d has %v and %v", scrape, first, second)
		}
	}
}

// Whoever may issue SVIDs may issue them for any number of IDs; the scrape stays small and no connection is left out.
func TestConnectionsAreCountedByABoundedNumberOfPeers(t *testing.T) {
	t.Parallel()
	var live []transport.Conn
	open := func(direction transport.Direction, peer string, n int) {
		id := spiffeid.RequireFromString("spiffe://partner.test/" + peer)
		for range n {
			live = append(live, transport.Conn{Direction: direction, Peer: &identity.Peer{ID: id}})
		}
	}
	open(transport.Inbound, "busy", 7)
	open(transport.Outbound, "busy", 3)
	for i := range maxEnds + 100 {
		open(transport.Inbound, fmt.Sprintf("one-of-many-%d", i), 1)
	}
	counts := countEnds(live)
	if n := len(counts); n != maxEnds+1 {
		t.Errorf("%d series, want %d and the others", n, maxEnds)
	}
	sum := 0
	for n := range maps.Values(counts) {
		sum += n
	}
	if sum != len(live) {
		t.Errorf("%d connections are counted, there are %d", sum, len(live))
	}
	for e, want := range map[end]int{
		{transport.Inbound, "spiffe://partner.test/busy"}:  7,
		{transport.Outbound, "spiffe://partner.test/busy"}: 3,
		{transport.Inbound, otherPeers}:                    102,
	} {
		if got := counts[e]; got != want {
			t.Errorf("%s %s: %d connections, want %d", e.direction, e.peer, got, want)
		}
	}
}
