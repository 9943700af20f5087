package rollout

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policyfile"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// Change is another text for a policy file. It is immutable.
type Change struct {
	// Path is the file.
	Path string
	// Old is the policy of the file as it is, and New that of the text that is to take its place.
	Old, New *policy.Policy

	descriptors policy.Descriptors
}

// Prepare reads the policy file at path, and compiles text as if it stood there already: what it includes is read beside that file. name is where
// text comes from, for errors, and descriptors knows the services that both are about.
func Prepare(path, name string, text []byte, descriptors policy.Descriptors) (Change, error) {
	source, err := policy.Read(path)
	if err != nil {
		return Change{}, err
	}
	old, err := policy.Compile(source, policy.WithDescriptors(descriptors))
	if err != nil {
		return Change{}, fmt.Errorf("the policy in place is not good itself, so that nothing could be compared with it or put back; mend it by hand first:\n%w", err)
	}
	changed, err := policy.Compile(source.WithMain(text), policy.WithDescriptors(descriptors))
	if err != nil {
		return Change{}, fmt.Errorf("%s, as if it stood in the place of %s:\n%w", name, path, err)
	}
	return Change{Path: path, Old: old, New: changed, descriptors: descriptors}, nil
}

// Same reports whether there is nothing to change.
func (c Change) Same() bool { return bytes.Equal(c.Old.Source().Main(), c.New.Source().Main()) }

// Difference says which rules the change takes away, with a "-", and which it adds, with a "+", in order.
func (c Change) Difference() []string {
	before, after := statements(c.Old), statements(c.New)
	var lines []string
	for _, line := range slices.Sorted(maps.Keys(merged(before, after))) {
		switch {
		case !after[line]:
			lines = append(lines, "- "+line)
		case !before[line]:
			lines = append(lines, "+ "+line)
		}
	}
	return lines
}

func merged(a, b map[string]bool) map[string]bool {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// statements are all that a policy says, each as one line.
func statements(p *policy.Policy) map[string]bool {
	said := make(map[string]bool)
	for service := range p.Services() {
		for _, pattern := range service.ServedBy {
			said[fmt.Sprintf("%s served_by %s", service.Name, pattern)] = true
		}
		for _, m := range service.Methods {
			for _, r := range m.Rules {
				said[statement(m, r)] = true
			}
		}
	}
	return said
}

func statement(m *policy.Method, r *policy.Rule) string {
	line := fmt.Sprintf("%s %s %s", m.Full, r.Effect, r.Peer)
	if r.When != "" {
		line += " when " + r.When
	}
	if r.Shadow {
		line += " (in shadow)"
	}
	return line
}

// Unrevoked are the revocations of the old policy that the new one does not have, as its file has them.
func (c Change) Unrevoked() ([]string, error) {
	missing, err := policyfile.Missing(c.Path, string(c.Old.Source().Main()), string(c.New.Source().Main()))
	var lines []string
	for _, r := range missing {
		switch {
		case r.GetId() != "":
			lines = append(lines, "id: "+r.GetId())
		case r.GetSerial() != "":
			lines = append(lines, "serial: "+r.GetSerial())
		default:
			lines = append(lines, "authority: "+r.GetAuthority())
		}
	}
	return lines, err
}

// letsFollow fails unless the new policy lets the one who applies it ask the servers about it, and watch the decisions when that is to be done.
func (c Change) letsFollow(self spiffeid.ID, watched bool) error {
	needed := []string{adminv1.AdminService_GetPolicy_FullMethodName}
	if watched {
		needed = append(needed, auditv1.AuditService_WatchDecisions_FullMethodName)
	}
	for _, method := range needed {
		verdict := c.New.Decide(policy.Call{Method: method, Peer: &identity.Peer{ID: self}})
		if !verdict.Allowed && !verdict.Undecided {
			return fmt.Errorf("the new policy does not let %s call %s, so that its way could not be followed: %s", self, method, verdict.Reason)
		}
	}
	return nil
}
