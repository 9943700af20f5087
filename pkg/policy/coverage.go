package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Covers reports where the policy and the services of a server do not fit each other, all at once: a method that is served and has no rules, which
// nobody could ever call, and a rule for a method that its service does not have, which would guard nothing. served has the names of the methods
// by the full name of their service. Services of other servers may stand in the same policy.
func (p *Policy) Covers(served map[string][]string) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(served)) {
		errs = append(errs, p.coversService(name, served[name]))
	}
	return errors.Join(errs...)
}

func (p *Policy) coversService(name string, methods []string) error {
	service, ok := p.services[name]
	if !ok {
		return fmt.Errorf("%s: the service %s is served here and has no rules under services", p.Name(), name)
	}
	var errs []error
	names := slices.Sorted(slices.Values(methods))
	for _, m := range names {
		if _, ok := service.Method(m); !ok {
			errs = append(errs, service.Position.Errorf(
				"the method %s of %s has no rules; add it under methods: (with allow: [] if nobody may call it)", m, name))
		}
	}
	for _, m := range service.Methods {
		if _, ok := slices.BinarySearch(names, m.Name); !ok {
			errs = append(errs, m.Position.Errorf("%s has no method %s; it has %s", name, m.Name, strings.Join(names, ", ")))
		}
	}
	return errors.Join(errs...)
}

// WithoutUsers reports the rules with a user for methods of a server that verifies no users' tokens, all at once: none of them could ever allow a call. served is as for
// Covers.
func (p *Policy) WithoutUsers(served map[string][]string) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(served)) {
		service, ok := p.services[name]
		if !ok {
			continue
		}
		for _, m := range service.Methods {
			for _, r := range m.Rules {
				if r.User != "" {
					errs = append(errs, r.Position.Errorf("the rule for %q asks for a user's token for %s, and this server verifies no users' tokens", r.Written, r.User))
				}
			}
		}
	}
	return errors.Join(errs...)
}
