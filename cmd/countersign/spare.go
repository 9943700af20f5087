package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/admin"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/site"
	"github.com/countersign-mesh/countersign/pkg/identity"
)

// spare fails when the revocation would hit somebody who is hardly meant: the one who makes it, or several by one serial number. It returns
// this process's identity, which the caller closes, and nil when there is none.
//
// A revocation is urgent. An authority that is down or does not answer is no reason to put up with a workload that was broken into: what
// is not known after spareBound is let pass, with a warning.
func (c *revokeCommand) spare(ctx context.Context, s *session, at place, what identity.Revocation) (*dial.Workload, error) {
	if at.unasked != "" && c.Socket == "" {
		return nil, nil //nolint:nilnil // there is nobody to be asked, and no Workload API is named
	}
	bounded, cancel := context.WithTimeoutCause(ctx, spareBound, fmt.Errorf("none within %v", spareBound))
	defer cancel()
	self, err := c.self(bounded, s)
	if err != nil {
		warnUnknown(s, err)
		return nil, nil //nolint:nilnil // see above
	}
	return self, spared(bounded, s, self, at.services, what)
}

// spared is spare once this process's identity is there. That it is gone again is no reason either.
func spared(ctx context.Context, s *session, self *dial.Workload, services []site.Service, what identity.Revocation) error {
	flag, err := ownPart(self, what)
	if err != nil {
		warnUnknown(s, err)
	}
	if flag != "" {
		return fmt.Errorf("%s: that is this process's own, %s: it could not ask about anything any more; if that is meant, add --force", flag, self.ID())
	}
	if what.Serial == "" {
		return nil
	}
	return oneBearer(bearers(ctx, self, s.mesh.Servers(ctx, services...), what.Serial))
}

func warnUnknown(s *session, err error) {
	s.err.Printf("warning: this process's own identity is not known; that it is not the one that is revoked was not checked: %v\n", err)
}

// ownPart returns the flag that names something of this process's own identity, and "" when none does.
func ownPart(self *dial.Workload, what identity.Revocation) (flag string, err error) {
	svid, err := self.GetX509SVID()
	if err != nil {
		return "", err
	}
	if what.ID == svid.ID {
		return "--id", nil
	}
	if what.Serial != "" && what.Serial == self.Status().Serial {
		return "--serial", nil
	}
	if what.Authority == "" {
		return "", nil
	}
	bundle, err := self.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
	if err != nil {
		return "", err
	}
	chain := svid.Certificates
	for _, cert := range chain[1:] {
		if identity.AuthorityOf(cert) == what.Authority {
			return "--authority", nil
		}
	}
	for _, root := range bundle.X509Authorities() {
		if identity.AuthorityOf(root) == what.Authority && chain[len(chain)-1].CheckSignatureFrom(root) == nil {
			return "--authority", nil
		}
	}
	return "", nil
}

// bearers returns who has connections by an SVID with a serial number, each with the services that say so. A service that does not answer
// before ctx ends is left out: who is hit shows in the list of cuts in any case.
func bearers(ctx context.Context, self *dial.Workload, services []site.Service, serial string) map[string][]string {
	var mu sync.Mutex
	found := make(map[string][]string)
	var group sync.WaitGroup
	for _, service := range services {
		group.Go(func() {
			conn, err := self.Dial(service.Target)
			if err != nil {
				return
			}
			defer func() { _ = conn.Close() }()
			list, err := admin.Connections(ctx, conn)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, c := range list {
				if c.GetPeerSerial() == serial && !slices.Contains(found[c.GetPeerId()], service.Name) {
					found[c.GetPeerId()] = append(found[c.GetPeerId()], service.Name)
				}
			}
		})
	}
	group.Wait()
	return found
}

// oneBearer fails when several have a serial number. It names who says so: the service that was broken into may be one of those
// that were asked, and say whatever keeps it from being revoked.
func oneBearer(found map[string][]string) error {
	if len(found) < 2 {
		return nil
	}
	var bearers []string
	for _, id := range slices.Sorted(maps.Keys(found)) {
		slices.Sort(found[id])
		bearers = append(bearers, fmt.Sprintf("%q, says %s", id, strings.Join(found[id], ", ")))
	}
	return fmt.Errorf("--serial: %d have an SVID with this number, which is unique per issuer only:\n%s\nif all are meant, add --force; to revoke one, use --id",
		len(found), strings.Join(bearers, "\n"))
}
