package policy

import (
	"fmt"
	"path/filepath"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/identity"
)

// WatchHealth is the method by which a client follows whether a server is to be called (gRFC A17). Every server of a mesh has it.
const WatchHealth = "/grpc.health.v1.Health/Watch"

// Dials fails unless a client has something to call at a server: some service that the server serves has a method that a rule lets the client
// call, under a condition or without. It says what would have to stand in the policy. WatchHealth does not count: its rules are for all servers, and who
// calls nothing else of one has no reason to know how that is doing.
func (p *Policy) Dials(client, server spiffeid.ID) error {
	if p == nil {
		return fmt.Errorf("there is no policy")
	}
	var served []string
	for service := range p.Services() {
		if !service.servedBy(server) {
			continue
		}
		served = append(served, service.Name)
		for _, m := range service.Methods {
			if m.Full != WatchHealth && p.lets(client, m.Full) {
				return nil
			}
		}
	}
	if len(served) == 0 {
		return fmt.Errorf("%s: no service is served_by %s", filepath.Base(p.Name()), p.short(server))
	}
	return fmt.Errorf("%s: no rule lets %s call anything of what %s serves, such as %s", filepath.Base(p.Name()), p.short(client), p.short(server), served[0])
}

// Lists reports whether a server serves a method, such as WatchHealth, that a rule lets a client call, under a condition or without.
func (p *Policy) Lists(client, server spiffeid.ID, fullMethod string) bool {
	if p == nil {
		return false
	}
	for service := range p.Services() {
		for _, m := range service.Methods {
			if m.Full == fullMethod {
				return service.servedBy(server) && p.lets(client, fullMethod)
			}
		}
	}
	return false
}

// lets reports whether a rule lets a client call a method, as far as that can be known without the request.
func (p *Policy) lets(client spiffeid.ID, fullMethod string) bool {
	v := p.Decide(Call{Method: fullMethod, Peer: &identity.Peer{ID: client}})
	return v.Allowed || v.Undecided
}

func (s *Service) servedBy(server spiffeid.ID) bool {
	for _, pattern := range s.ServedBy {
		if pattern.Matches(server) {
			return true
		}
	}
	return false
}
