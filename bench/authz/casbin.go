package main

import (
	"github.com/casbin/casbin/v2"
	"github.com/casbin/casbin/v2/model"
)

// The models are those of casbin's documentation for ACL without actions and for RBAC. What is cheap to compare stands first, so that the
// expression ends early.
const (
	aclModel = `
[request_definition]
r = sub, obj
[policy_definition]
p = sub, obj
[policy_effect]
e = some(where (p.eft == allow))
[matchers]
m = r.obj == p.obj && r.sub == p.sub
`
	rbacModel = `
[request_definition]
r = sub, obj
[policy_definition]
p = sub, obj
[role_definition]
g = _, _
[policy_effect]
e = some(where (p.eft == allow))
[matchers]
m = r.obj == p.obj && g(r.sub, p.sub)
`
)

// enforcer is what casbin's enforcers have in common here.
type enforcer interface {
	Enforce(values ...any) (bool, error)
	AddPolicies(rules [][]string) (bool, error)
	AddGroupingPolicies(rules [][]string) (bool, error)
}

// casbinACL has a policy a rule.
func casbinACL() engine {
	return casbinEngine("casbin, ACL", aclModel, addRules, func(m model.Model) (enforcer, error) { return casbin.NewEnforcer(m) })
}

// casbinRBAC has a role a method, which the peers that may call it are in: a policy a method, and a grouping a rule.
func casbinRBAC() engine {
	return casbinEngine("casbin, RBAC", rbacModel, addRoles, func(m model.Model) (enforcer, error) { return casbin.NewEnforcer(m) })
}

// casbinCached remembers the answer to each question that was ever asked, and does not decide on it again.
func casbinCached() engine {
	return casbinEngine("casbin, ACL, cached", aclModel, addRules, func(m model.Model) (enforcer, error) { return casbin.NewCachedEnforcer(m) })
}

func casbinEngine(name, text string, add func(enforcer, []grant) error, enforce func(model.Model) (enforcer, error)) engine {
	return engine{name: name, load: func(grants []grant) (decider, error) {
		m, err := model.NewModelFromString(text)
		if err != nil {
			return nil, err
		}
		e, err := enforce(m)
		if err != nil {
			return nil, err
		}
		if err := add(e, grants); err != nil {
			return nil, err
		}
		return func(q question) decision {
			peer, method := q.peer.String(), q.method
			return func() (bool, error) { return e.Enforce(peer, method) }
		}, nil
	}}
}

func addRules(e enforcer, grants []grant) error {
	var rules [][]string
	for _, g := range grants {
		for _, p := range g.peers {
			rules = append(rules, []string{id(p).String(), g.full()})
		}
	}
	_, err := e.AddPolicies(rules)
	return err
}

func addRoles(e enforcer, grants []grant) error {
	var roles, members [][]string
	for _, g := range grants {
		role := "callers of " + g.full()
		roles = append(roles, []string{role, g.full()})
		for _, p := range g.peers {
			members = append(members, []string{id(p).String(), role})
		}
	}
	if _, err := e.AddPolicies(roles); err != nil {
		return err
	}
	_, err := e.AddGroupingPolicies(members)
	return err
}
