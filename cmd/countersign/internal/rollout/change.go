package rollout

import (
	"bytes"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

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
}

// UnfitError means that the policy in place is not good itself, and why.
type UnfitError struct{ Err error }

// Error implements error.
func (e *UnfitError) Error() string {
	return fmt.Sprintf("the policy in place is not good itself, so that nothing could be compared with it or put back; mend it by hand first, or replace it with --offline:\n%v", e.Err)
}

// Unwrap returns what is not good about it.
func (e *UnfitError) Unwrap() error { return e.Err }

// Prepare reads the policy file at path, and compiles text as if it stood there already: what it includes is read beside that file. name is where
// text comes from, for errors, and descriptors knows the services that both are about.
func Prepare(path, name string, text []byte, descriptors policy.Descriptors) (Change, error) {
	source, err := policy.Read(path)
	if err != nil {
		return Change{}, err
	}
	old, err := policy.Compile(source, policy.WithDescriptors(descriptors))
	if err != nil {
		return Change{}, &UnfitError{Err: err}
	}
	changed, err := policy.Compile(source.WithMain(text), policy.WithDescriptors(descriptors))
	if err != nil {
		return Change{}, fmt.Errorf("%s, as if it stood in the place of %s:\n%w", name, path, err)
	}
	return Change{Path: path, Old: old, New: changed}, nil
}

// Same reports whether there is nothing to change.
func (c Change) Same() bool { return bytes.Equal(c.Old.Source().Main(), c.New.Source().Main()) }

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
