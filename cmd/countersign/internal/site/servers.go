package site

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
)

// resolveBound is how long it may take to find out where the servers of a mesh are.
const resolveBound = 2 * time.Second

// Resolver finds the addresses of a host. *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Servers returns each server of the services as one of its own, with the Finder's resolver; see Servers.
func (f Finder) Servers(ctx context.Context, services ...Service) []Service {
	return Servers(ctx, f.Resolver, services...)
}

// Servers returns each server of the services as one of its own, in their order: behind the name payments there may be three that are alike, and
// who dials the name is answered by any of them. What has to be so everywhere has to be asked of each. Those of one name are called
// "payments (172.19.0.3)"; a service with one address is returned as it is. One whose name does not resolve stays in the list, and whoever dials
// it gets that error: a service that nobody finds is not one that has answered. A nil resolver is the system's.
func Servers(ctx context.Context, r Resolver, services ...Service) []Service {
	if r == nil {
		r = net.DefaultResolver
	}
	ctx, cancel := context.WithTimeoutCause(ctx, resolveBound, fmt.Errorf("no answer within %v", resolveBound))
	defer cancel()
	found := make([][]Service, len(services))
	var group sync.WaitGroup
	for i, service := range services {
		group.Go(func() { found[i] = behind(ctx, r, service) })
	}
	group.Wait()
	return slices.Concat(found...)
}

// Noun is what servers are called where they are counted, next to the services that they are of: the word that is right for both numbers.
func Noun(services, servers []Service) string {
	if len(servers) == len(services) {
		return "services"
	}
	return "servers"
}

// behind returns the servers of one service.
func behind(ctx context.Context, r Resolver, service Service) []Service {
	host, port, err := net.SplitHostPort(service.Address)
	if err != nil || service.Unresolved != nil {
		return []Service{service} // who dials it says what is wrong
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return []Service{service}
	}
	all, err := r.LookupNetIP(ctx, "ip", host)
	if err == nil && len(all) == 0 {
		err = errors.New("it has none")
	}
	if err != nil {
		service.Unresolved = fmt.Errorf("find the addresses of %s: %w", host, err)
		return []Service{service}
	}
	addresses := oneFamily(all)
	if len(addresses) == 1 {
		return []Service{service}
	}
	var servers []Service
	for _, address := range addresses {
		servers = append(servers, Service{
			Name:   fmt.Sprintf("%s (%s)", service.Name, address),
			Target: dial.Target{Address: net.JoinHostPort(address.String(), port), ID: service.ID},
		})
	}
	return servers
}

// oneFamily returns the addresses of the family that has more of them, sorted. A server that has an IPv4 address and an IPv6 address, as localhost
// has, is one server, and may listen at one of the two.
func oneFamily(all []netip.Addr) []netip.Addr {
	var four, six []netip.Addr
	for _, address := range all {
		if address = address.Unmap(); address.Is4() {
			four = append(four, address)
		} else {
			six = append(six, address)
		}
	}
	four, six = sorted(four), sorted(six)
	if len(six) > len(four) {
		return six
	}
	return four
}

func sorted(list []netip.Addr) []netip.Addr {
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}
