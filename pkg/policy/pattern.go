package policy

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// below is how a pattern ends that stands for all workloads below a path, or for all of a trust domain. No SPIFFE ID ends like that: a star
// is none of the characters of its segments (SPIFFE-ID §2.2).
const below = "/**"

// Pattern is what a rule names its peers by: one SPIFFE ID, or all below a path or in a trust domain. It is comparable. The zero Pattern
// matches nobody.
type Pattern struct {
	// root is the ID itself, or what all the IDs that are meant begin with.
	root    spiffeid.ID
	subtree bool
}

// errNoPath is why a trust domain alone names no peer (X509-SVID §5.2: a leaf's ID has a path).
var errNoPath = errors.New("names a trust domain and no workload; add a path, such as /payments, or /** for all of its workloads")

// ParsePattern reads a pattern as a rule has it: a SPIFFE ID, whole or short for one of the trust domain own, or with /** at its end for all the
// workloads below it.
func ParsePattern(own spiffeid.TrustDomain, text string) (Pattern, error) {
	root, subtree := strings.CutSuffix(text, below)
	if subtree && root == "" {
		return Pattern{root: own.ID(), subtree: true}, nil
	}
	if strings.Contains(root, "*") {
		return Pattern{}, fmt.Errorf("a star stands at the end alone, as in /payments/**")
	}
	var id spiffeid.ID
	var err error
	if strings.HasPrefix(root, "/") {
		id, err = spiffeid.FromPath(own, root)
	} else {
		id, err = spiffeid.FromString(root)
	}
	if err != nil {
		return Pattern{}, fmt.Errorf("no SPIFFE ID: %w", err)
	}
	if id.Path() == "" && !subtree {
		return Pattern{}, errNoPath
	}
	return Pattern{root: id, subtree: subtree}, nil
}

// Matches reports whether the pattern means id. The zero ID is meant by none.
func (p Pattern) Matches(id spiffeid.ID) bool {
	if !p.subtree {
		return id == p.root && !id.IsZero()
	}
	// A segment ends where the next slash is: /payments/** does not mean /payments-evil/x.
	rest, ok := strings.CutPrefix(id.String(), p.root.String())
	return ok && !p.root.IsZero() && strings.HasPrefix(rest, "/")
}

// Covers reports whether the pattern means everybody whom other means.
func (p Pattern) Covers(other Pattern) bool {
	return p == other || p.subtree && p.Matches(other.root) // an ID does not mean what is below it
}

// ID returns the one SPIFFE ID that the pattern means, and false when it means all below one.
func (p Pattern) ID() (spiffeid.ID, bool) { return p.root, !p.subtree && !p.root.IsZero() }

// TrustDomain returns the trust domain of those whom the pattern means.
func (p Pattern) TrustDomain() spiffeid.TrustDomain { return p.root.TrustDomain() }

// String returns the pattern written whole: "spiffe://bank.test/payments/**".
func (p Pattern) String() string {
	if p.subtree {
		return p.root.String() + below
	}
	return p.root.String()
}

// Short returns the pattern as its path when it is of the trust domain own, and whole otherwise.
func (p Pattern) Short(own spiffeid.TrustDomain) string {
	if p.root.TrustDomain() != own {
		return p.String()
	}
	return strings.TrimPrefix(p.String(), own.IDString())
}
