package authz

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc"
)

// Covers reports where the policy and a server's services do not fit each other, all at once: a method that is registered
// and has no rules, which nobody could ever call, and a rule for a method that its service does not have, which would
// guard nothing. services is what grpc.Server.GetServiceInfo returns. Services of other servers may stand in the same file.
func (p *Policy) Covers(services map[string]grpc.ServiceInfo) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(services)) {
		errs = append(errs, p.coversService(name, services[name].Methods))
	}
	return errors.Join(errs...)
}

func (p *Policy) coversService(name string, registered []grpc.MethodInfo) error {
	ruled, ok := p.services[name]
	if !ok {
		return fmt.Errorf("%s: the service %s is served here and has no rules under services", p.name, name)
	}
	var errs []error
	names := make([]string, 0, len(registered))
	for _, m := range registered {
		names = append(names, m.Name)
		if _, ok := ruled[m.Name]; !ok {
			errs = append(errs, p.document.At("services", name).Errorf(
				"the method %s of %s has no rules; add it under methods: (with allow: [] if nobody may call it)", m.Name, name))
		}
	}
	slices.Sort(names)
	for _, m := range slices.Sorted(maps.Keys(ruled)) {
		if _, ok := slices.BinarySearch(names, m); !ok {
			errs = append(errs, ruled[m].pos.Errorf(
				"%s has no method %s; it has %s", name, m, strings.Join(names, ", ")))
		}
	}
	return errors.Join(errs...)
}
