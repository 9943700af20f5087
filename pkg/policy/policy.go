// Package policy reads policy files and decides by them who may call what.
//
// Load reads a file with what it includes, and Parse a single text. Both make a Policy, which is immutable: Decide asks it about one call, and
// Services shows everything that is in it to the tools that check, compare and draw policies. What no rule allows is denied, and a rule under deny
// wins over every rule under allow.
//
// The schema of the file is mesh.policy.v1.Policy, which documents each field.
package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/yamlfile"
)

// Policy is a policy, compiled. It is immutable and safe for concurrent use. The nil Policy denies everything.
type Policy struct {
	source      Source
	version     string
	trustDomain spiffeid.TrustDomain
	// methods is keyed by full method, so that a decision costs the same however many rules there are.
	methods  map[string]*Method
	services map[string]*Service
	// plain has the rules that allow a peer that they name whatever it calls of a method, when nothing else is to be asked (see entry). It makes the
	// ordinary decision one look-up. The way over methods says the same, and has three times as much to fetch into the processor's caches when a
	// policy is large.
	plain   map[plainCall]*Rule
	revoked *identity.Revocations
	// documents are the files as they were read, in the order of the source.
	documents []*yamlfile.Document
}

// Call is what a policy decides on.
type Call struct {
	// Method is the full method, "/package.Service/Method".
	Method string
	// Peer is the caller. Whoever has no verified identity is nobody: nil.
	Peer *identity.Peer
	// Request is the request message, nil while it is not known. Rules with a condition over the request are undecided until then.
	Request proto.Message
	// User is the user for whom the call is made. Rules with a user are undecided while it and UserErr are nil: nobody has looked.
	User *User
	// UserErr is why the call has no user, ErrNoUser or what is wrong with the token. It is for operators, and must not have the token in it. A rule with a
	// user allows nothing then, and denies.
	UserErr error
}

// Verdict is what a policy says of one call.
type Verdict struct {
	// Allowed is whether the call may go on.
	Allowed bool
	// Undecided says that it depends on the request or on the user, which the Call did not have. Allowed is false then.
	Undecided bool
	// NeedsUser says that it may depend on the user, of whom the Call did not say anything: the verdict, or what the rules in shadow say.
	NeedsUser bool
	// Rule decided: it allows the call or denies it. It is nil when no rule applies, so that the call is denied.
	Rule *Rule
	// Reason says why the call is denied and what came nearest to allowing it, or what it depends on; empty when it is allowed. It is for
	// operators: it names who else is allowed, so it must not reach the caller.
	Reason string
	// Shadow is what the rules in shadow say.
	Shadow Shadow
}

// Shadow is what the verdict would be if the rules in shadow were enforced.
type Shadow struct {
	// Rule is the rule in shadow that applies to the call; nil when none does.
	Rule *Rule
	// Allowed is what the verdict would be.
	Allowed bool
	// Undecided says that it depends on the request, which the Call did not have: which rule in shadow applies, or what it would come to.
	Undecided bool
}

// Name returns the name that the policy's main file was read under.
func (p *Policy) Name() string { return p.source.files[0].Name }

// Source returns the text that the policy was made of.
func (p *Policy) Source() Source { return p.source }

// Version names the policy by its text, whole: the first 16 hexadecimal digits of the SHA-256 of the file, and of a policy of several files
// of them all.
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

// place writes a position as "bank.yaml:12". The directory is left out: a record should read the same whatever machine it comes from.
func place(pos yamlfile.Position) string {
	return fmt.Sprintf("%s:%d", filepath.Base(pos.File), pos.Line)
}

func digest(parts ...[]byte) string {
	hash := sha256.New()
	for _, part := range parts {
		hash.Write(part)
	}
	return hex.EncodeToString(hash.Sum(nil)[:8])
}
