package main

import (
	"fmt"
	"strings"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

// engine is one way to decide, of one library.
type engine struct {
	name string
	// load makes what decides by some rules, from the text or the values that the library reads.
	load func(grants []grant) (decider, error)
}

// decider prepares questions: it puts one into the form that its library asks for, which is not measured, and returns the decision, which is.
type decider func(q question) decision

// decision decides anew each time that it is called, and reports whether the call is allowed.
type decision func() (bool, error)

// ours is what all else is compared with.
const ours = "countersign"

// countersign is pkg/policy.
func countersign() engine {
	return engine{name: ours, load: func(grants []grant) (decider, error) {
		p, err := policy.Parse("bench.yaml", []byte(policyText(grants, "")))
		if err != nil {
			return nil, err
		}
		return func(q question) decision {
			call := policy.Call{Method: q.method, Peer: &identity.Peer{ID: q.peer, Serial: "c0ffee"}}
			return func() (bool, error) { return p.Decide(call).Allowed, nil }
		}, nil
	}}
}

// policyText writes rules as a policy file, each with the condition when unless that is empty.
func policyText(grants []grant, when string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "trust_domain: %s\nservices:\n", trustDomain)
	for i, g := range grants {
		if i == 0 || grants[i-1].service != g.service {
			fmt.Fprintf(&b, "  %s:\n    methods:\n", g.service)
		}
		fmt.Fprintf(&b, "      %s:\n        allow:\n", g.method)
		for _, p := range g.peers {
			fmt.Fprintf(&b, "          - peer: %s\n", p)
			if when != "" {
				fmt.Fprintf(&b, "            when: %s\n", when)
			}
		}
	}
	return b.String()
}

// floor is a map and nothing else: below it nobody who looks the rule up can come.
func floor() engine {
	return engine{name: "a Go map", load: func(grants []grant) (decider, error) {
		type rule struct{ peer, method string }
		rules := make(map[rule]bool)
		for _, g := range grants {
			for _, p := range g.peers {
				rules[rule{peer: id(p).String(), method: g.full()}] = true
			}
		}
		return func(q question) decision {
			asked := rule{peer: q.peer.String(), method: q.method}
			return func() (bool, error) { return rules[asked], nil }
		}, nil
	}}
}
