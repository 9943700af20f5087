package site_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/site"
)

// names are what a resolver knows.
type names map[string][]string

var errNoHost = errors.New("no such host")

func (n names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	addresses := []netip.Addr{}
	for _, text := range n[host] {
		addresses = append(addresses, netip.MustParseAddr(text))
	}
	if n[host] == nil {
		return nil, errNoHost
	}
	return addresses, nil
}

func TestEachAddressBehindANameIsAServerOfItsOwn(t *testing.T) {
	t.Parallel()
	r := names{
		"one": {"10.0.0.1"}, "twice": {"10.0.0.1", "::ffff:10.0.0.1"}, "both": {"::1", "127.0.0.1"}, "none": {},
		"three": {"10.0.0.3", "10.0.0.1", "10.0.0.2"}, "dual": {"fd00::2", "fd00::1", "10.0.0.2", "10.0.0.1"}, "six": {"fd00::2", "fd00::1", "10.0.0.1"},
	}
	for address, want := range map[string][]string{
		"one:1": {"s one:1"}, "twice:1": {"s twice:1"}, "both:1": {"s both:1"},
		"three:1":    {"s (10.0.0.1) 10.0.0.1:1", "s (10.0.0.2) 10.0.0.2:1", "s (10.0.0.3) 10.0.0.3:1"},
		"dual:1":     {"s (10.0.0.1) 10.0.0.1:1", "s (10.0.0.2) 10.0.0.2:1"},
		"six:1":      {"s (fd00::1) [fd00::1]:1", "s (fd00::2) [fd00::2]:1"},
		"10.0.0.9:1": {"s 10.0.0.9:1"}, "[fd00::9]:1": {"s [fd00::9]:1"}, // which the resolver is not asked about
		"none:1": {"s none:1 unresolved"}, "gone:1": {"s gone:1 unresolved"},
	} {
		var got []string
		for _, server := range site.Servers(t.Context(), r, site.Service{Name: "s", Target: target("/s", address)}) {
			line := server.Name + " " + server.Address
			if server.Unresolved != nil {
				line += " unresolved"
			}
			got = append(got, line)
			if server.ID != target("/s", address).ID {
				t.Errorf("%s: %s must be %s", address, line, server.ID)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", address, diff)
		}
	}
	list := site.Servers(t.Context(), r, site.Service{Name: "gone", Target: target("/gone", "gone:1")}, site.Service{Name: "one", Target: target("/one", "one:1")})
	if len(list) != 2 || !errors.Is(list[0].Unresolved, errNoHost) || list[1].Unresolved != nil {
		t.Errorf("beside one that is gone: %+v", list)
	}
}
