// Package authz turns a policy file into decisions, and asks for one on every call and every message of a stream.
//
// Parse makes a Policy of a file's text, File keeps the file's latest good one in force, and Guard asks it.
package authz

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/yamlfile"
)

// Policy is one policy file, compiled. It is immutable and safe for concurrent use; Parse makes one. The nil Policy denies
// everything.
type Policy struct {
	name        string
	text        string
	version     string
	trustDomain spiffeid.TrustDomain
	// methods is keyed by full method, so that a decision is two map look-ups however many rules there are.
	methods map[string]*method
	// services is keyed by the service's full name, and each by the name of its method.
	services map[string]map[string]*method
	revoked  *identity.Revocations
	document *yamlfile.Document
}

type method struct {
	pos yamlfile.Position
	// rules says where the rule that allows a peer stands.
	rules map[spiffeid.ID]string
	// peers are the keys of rules in the order of the file.
	peers []spiffeid.ID
}

// Verdict is what a policy says of one peer and one method.
type Verdict struct {
	Allowed bool
	// Rule is where the rule that allowed the call stands, "bank.yaml:12"; empty when none did.
	Rule string
	// Reason says why the call is denied and what came nearest to allowing it; empty when it is allowed. It is for
	// operators: it names who else is allowed, so it must not reach the caller.
	Reason string
}

// Name returns the name that the file was parsed under.
func (p *Policy) Name() string { return p.name }

// Version returns the first 16 hexadecimal digits of the file's SHA-256.
func (p *Policy) Version() string {
	if p == nil {
		return ""
	}
	return p.version
}

// TrustDomain returns the trust domain that the file's short forms belong to.
func (p *Policy) TrustDomain() spiffeid.TrustDomain { return p.trustDomain }

// Revocations returns whom the policy revokes.
func (p *Policy) Revocations() *identity.Revocations {
	if p == nil {
		return nil
	}
	return p.revoked
}

// Decide says whether peer may call fullMethod ("/package.Service/Method"). A method that the policy does not know is denied,
// and so is the zero ID. An allowed call costs no allocation.
func (p *Policy) Decide(fullMethod string, peer spiffeid.ID) Verdict {
	if p == nil {
		return Verdict{Reason: "there is no policy"}
	}
	m, ok := p.methods[fullMethod]
	if !ok {
		return Verdict{Reason: fmt.Sprintf("%s has no rules for %.200q", filepath.Base(p.name), fullMethod)}
	}
	rule, ok := m.rules[peer]
	if !ok {
		return Verdict{Reason: m.nearestMiss(p, peer)}
	}
	return Verdict{Allowed: true, Rule: rule}
}

// maxNamed bounds how many peers a reason names: a denied call must not cost more the more rules there are.
const maxNamed = 8

// nearestMiss says who would have been allowed instead of peer.
func (m *method) nearestMiss(p *Policy, peer spiffeid.ID) string {
	if len(m.peers) == 0 {
		return fmt.Sprintf("%s: nobody is allowed to call it", p.at(m.pos))
	}
	var names []string
	for _, id := range m.peers[:min(len(m.peers), maxNamed)] {
		names = append(names, p.short(id))
	}
	allowed := strings.Join(names, ", ")
	if more := len(m.peers) - len(names); more > 0 {
		allowed += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf("%s: allowed for %s; the caller is %s", p.at(m.pos), allowed, p.short(peer))
}

// short writes an ID of the policy's own trust domain as its path, and any other whole.
func (p *Policy) short(id spiffeid.ID) string {
	switch {
	case id.IsZero():
		return "nobody"
	case id.MemberOf(p.trustDomain):
		return id.Path()
	default:
		return id.String()
	}
}

// at writes a position in the file as "bank.yaml:12". The directory is left out: a record should read the same whatever
// machine it comes from.
func (p *Policy) at(pos yamlfile.Position) string {
	return fmt.Sprintf("%s:%d", filepath.Base(p.name), pos.Line)
}

// Allows yields each full method with each peer that may call it, ordered by method and then as the file has it.
func (p *Policy) Allows() iter.Seq2[string, spiffeid.ID] {
	return func(yield func(string, spiffeid.ID) bool) {
		if p == nil {
			return
		}
		for _, full := range slices.Sorted(maps.Keys(p.methods)) {
			for _, id := range p.methods[full].peers {
				if !yield(full, id) {
					return
				}
			}
		}
	}
}

func versionOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}
