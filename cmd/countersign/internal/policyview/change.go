package policyview

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/policy"
)

// Kind is what kind of a change it is. Its value is what JSON has.
type Kind string

// The kinds. The first of them are about a peer and a method.
const (
	// Gains and Loses are of a peer of whose calls none was allowed and now some are, and the other way round.
	Gains Kind = "gains"
	Loses Kind = "loses"
	// ConditionAdded, ConditionRemoved and ConditionChanged are of a peer that may call it before and after, on other conditions.
	ConditionAdded   Kind = "condition_added"
	ConditionRemoved Kind = "condition_removed"
	ConditionChanged Kind = "condition_changed"
	// DenyAdded and DenyRemoved are of rules that deny, where no gain or loss follows from them.
	DenyAdded   Kind = "deny_added"
	DenyRemoved Kind = "deny_removed"
	// ShadowChanged is of what would hold if the rules in shadow were enforced.
	ShadowChanged Kind = "shadow_changed"

	// PeerRevoked and PeerRestored are of the list of revocations.
	PeerRevoked  Kind = "revoked"
	PeerRestored Kind = "restored"

	// ServedByAdded and ServedByRemoved are of whom clients may dial for a service.
	ServedByAdded   Kind = "served_by_added"
	ServedByRemoved Kind = "served_by_removed"
	// ServiceAdded and the others are of what there are rules for.
	ServiceAdded   Kind = "service_added"
	ServiceRemoved Kind = "service_removed"
	MethodAdded    Kind = "method_added"
	MethodRemoved  Kind = "method_removed"
)

// Change is one thing that differs between two policies. In JSON its fields have the names that stand beside them, peers are written whole, and
// what is empty is left out.
type Change struct {
	Kind Kind
	// Peer is whose change it is ("peer"): one workload, or all below a path, whether or not a rule names them one by one. It is who serves, for
	// ServedByAdded and ServedByRemoved, and the workload that was revoked or restored. It is zero where the change is about none.
	Peer policy.Pattern
	// Except are those whom Peer means and the change does not ("except"), and Among those whom it does and some rule names ("among").
	Except, Among []policy.Pattern
	// Serial and Authority are what was revoked or restored ("serial", "authority"), where that is no workload.
	Serial, Authority string
	// Service is the full name of the service ("service"), and Method the method, "package.Service/Method" ("method").
	Service, Method string
	// Before and After are what the rules came to and come to ("before", "after"); with ShadowChanged, what they would if those in shadow were
	// enforced. They are nil unless the change is about a peer and a method.
	Before, After *Access
	// FromShadow says that what was in shadow is enforced ("from_shadow"), and ToShadow the reverse ("to_shadow").
	FromShadow, ToShadow bool

	// own is the trust domain of the short forms.
	own spiffeid.TrustDomain
}

// MarshalJSON implements json.Marshaler.
func (c Change) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Kind       Kind     `json:"kind"`
		Peer       string   `json:"peer,omitempty"`
		Except     []string `json:"except,omitempty"`
		Among      []string `json:"among,omitempty"`
		Serial     string   `json:"serial,omitempty"`
		Authority  string   `json:"authority,omitempty"`
		Service    string   `json:"service,omitempty"`
		Method     string   `json:"method,omitempty"`
		Before     *Access  `json:"before,omitempty"`
		After      *Access  `json:"after,omitempty"`
		FromShadow bool     `json:"from_shadow,omitempty"`
		ToShadow   bool     `json:"to_shadow,omitempty"`
	}{
		c.Kind, c.Peer.String(), whole(c.Except), whole(c.Among), c.Serial, c.Authority, c.Service, c.Method, c.Before, c.After, c.FromShadow, c.ToShadow,
	})
}

func whole(patterns []policy.Pattern) []string {
	var texts []string
	for _, p := range patterns {
		texts = append(texts, p.String())
	}
	return texts
}

// String says what changes in one sentence.
func (c Change) String() string { return c.sentence(c.Method, plain) }

// plain marks nothing as code.
func plain(text string) string { return text }

// sentence calls the method by a name that may be shorter. code marks what is no word of ours.
func (c Change) sentence(method string, code func(string) string) string {
	peer, method, service := code(c.short(c.Peer)), code(method), code(c.Service)
	var text string
	switch c.Kind {
	case PeerRevoked:
		return c.subject(code) + " is revoked: refused everywhere"
	case PeerRestored:
		return c.subject(code) + " is revoked no more"
	case ServedByAdded:
		return fmt.Sprintf("%s serves %s: clients may dial it for that", peer, service)
	case ServedByRemoved:
		return fmt.Sprintf("%s serves %s no more: no client dials it for that", peer, service)
	case ServiceAdded:
		return service + " has rules now"
	case ServiceRemoved:
		return service + " has no rules any more"
	case MethodAdded:
		return method + " has rules now"
	case MethodRemoved:
		return method + " has no rules any more"
	case Gains, Loses:
		text = fmt.Sprintf("%s %s %s%s", peer, c.Kind, method, c.instead(code))
	default:
		text = fmt.Sprintf("%s: %s for %s: %s → %s", peer, strings.ReplaceAll(string(c.Kind), "_", " "), method, c.Before.words(code), c.After.words(code))
	}
	return text + c.remarks(code)
}

// instead says what a gain or a loss does not say already.
func (c Change) instead(code func(string) string) string {
	switch c.After.State {
	case NotAllowed, Allowed:
		if len(c.After.Unless) == 0 {
			return ""
		}
	case Revoked:
		return ": it is revoked"
	case Denied:
		return ": a rule denies it"
	case Conditional:
	}
	return ": " + c.After.words(code)
}

// remarks are whom a change means, and what it has to do with shadow.
func (c Change) remarks(code func(string) string) string {
	var parts []string
	if len(c.Except) > 0 {
		parts = append(parts, "not "+c.names(c.Except, code))
	}
	if len(c.Among) > 0 {
		parts = append(parts, "among them "+c.names(c.Among, code))
	}
	if c.FromShadow {
		parts = append(parts, "what was in shadow is enforced")
	}
	if c.ToShadow {
		parts = append(parts, "what was enforced is in shadow")
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, "; ") + ")"
}

func (c Change) names(patterns []policy.Pattern, code func(string) string) string {
	var texts []string
	for _, p := range patterns {
		texts = append(texts, code(c.short(p)))
	}
	return strings.Join(texts, ", ")
}

// subject is what was revoked.
func (c Change) subject(code func(string) string) string {
	switch {
	case c.Serial != "":
		return "the SVID with the serial number " + code(c.Serial)
	case c.Authority != "":
		return "the authority " + code(c.Authority)
	default:
		return code(c.short(c.Peer))
	}
}

func (c Change) short(p policy.Pattern) string { return p.Short(c.own) }
