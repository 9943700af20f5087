package policy

import (
	"fmt"
	"path/filepath"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/identity"
)

// Dials fails unless a client has something to call at a server: some service that the server serves has a method that a rule lets the client
// call, under a condition or without. It says what would have to stand in the policy.
func (p *Policy) Dials(client, server spiffeid.ID) error {
	if p == nil {
		return fmt.Errorf("there is no policy")
	}
	call := Call{Peer: &identity.Peer{ID: client}}
	var served []string
	for service := range p.Services() {
		if !service.servedBy(server) {
			continue
		}
		served = append(served, service.Name)
		for _, m := range service.Methods {
			call.Method = m.Full
			if v := p.Decide(call); v.Allowed || v.Undecided {
				return nil
			}
		}
	}
	if len(served) == 0 {
		return fmt.Errorf("%s: no service is served_by %s", filepath.Base(p.Name()), p.short(server))
	}
	return fmt.Errorf("%s: no rule lets %s call anything of what %s serves, such as %s", filepath.Base(p.Name()), p.short(client), p.short(server), served[0])
}

func (s *Service) servedBy(server spiffeid.ID) bool {
	for _, pattern := range s.ServedBy {
		if pattern.Matches(server) {
			return true
		}
	}
	return false
}
