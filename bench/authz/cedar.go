package main

import (
	"fmt"
	"strings"

	"github.com/cedar-policy/cedar-go"
)

// The types of the entities.
const (
	cedarWorkload cedar.EntityType = "Workload"
	cedarCallers  cedar.EntityType = "Callers"
	cedarMethod   cedar.EntityType = "Action"
	cedarServer   cedar.EntityType = "Server"
)

// cedarRules has a policy a rule, which names principal and action. Each may have a condition; when is empty or ends a policy.
func cedarRules(name, when string, context cedar.Record) engine {
	return engine{name: name, load: func(grants []grant) (decider, error) {
		var b strings.Builder
		for _, g := range grants {
			for _, p := range g.peers {
				fmt.Fprintf(&b, "permit (principal == %s, action == %s, resource)%s;\n",
					cedar.NewEntityUID(cedarWorkload, cedar.String(id(p).String())), cedar.NewEntityUID(cedarMethod, cedar.String(g.full())), when)
			}
		}
		return cedarDecider(b.String(), nil, context)
	}}
}

// noContext is the context of a request without one.
func noContext() cedar.Record { return cedar.Record{} }

// cedarGroups has a policy a method, for the members of a group, and an entity a peer that says which groups it is in.
func cedarGroups() engine {
	return engine{name: "cedar-go, groups", load: func(grants []grant) (decider, error) {
		var b strings.Builder
		groups := make(map[cedar.EntityUID][]cedar.EntityUID)
		for _, g := range grants {
			callers := cedar.NewEntityUID(cedarCallers, cedar.String(g.full()))
			fmt.Fprintf(&b, "permit (principal in %s, action == %s, resource);\n", callers, cedar.NewEntityUID(cedarMethod, cedar.String(g.full())))
			for _, p := range g.peers {
				peer := cedar.NewEntityUID(cedarWorkload, cedar.String(id(p).String()))
				groups[peer] = append(groups[peer], callers)
			}
		}
		entities := make(cedar.EntityMap, len(groups))
		for peer, in := range groups {
			entities[peer] = cedar.Entity{UID: peer, Parents: cedar.NewEntityUIDSet(in...)}
		}
		return cedarDecider(b.String(), entities, noContext())
	}}
}

func cedarDecider(text string, entities cedar.EntityMap, context cedar.Record) (decider, error) {
	policies, err := cedar.NewPolicySetFromBytes("bench.cedar", []byte(text))
	if err != nil {
		return nil, err
	}
	return func(q question) decision {
		request := cedar.Request{
			Principal: cedar.NewEntityUID(cedarWorkload, cedar.String(q.peer.String())),
			Action:    cedar.NewEntityUID(cedarMethod, cedar.String(q.method)),
			Resource:  cedar.NewEntityUID(cedarServer, "bench"),
			Context:   context,
		}
		return func() (bool, error) {
			decided, diagnostic := cedar.Authorize(policies, entities, request)
			if len(diagnostic.Errors) > 0 {
				return false, fmt.Errorf("cedar: %s", diagnostic.Errors[0])
			}
			return bool(decided), nil
		}
	}, nil
}
