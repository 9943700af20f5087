// Package policytest holds policies against tables of tests: calls, and what is to be decided on them (mesh.policy.v1.Table).
package policytest

import (
	"errors"
	"fmt"
	"os"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/contracts"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policyfile"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
	"github.com/countersign-mesh/countersign/pkg/yamlfile"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

// Table is a table of tests. It is immutable.
type Table struct {
	// Name is the name of its file.
	Name     string
	cases    []*policyv1.Case
	document *yamlfile.Document
}

// Read reads the table in a file.
func Read(path string) (*Table, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the table of tests: %w", err)
	}
	return Parse(path, text)
}

// Parse reads the text of a table. name is the file's name in results and errors.
func Parse(name string, text []byte) (*Table, error) {
	var table policyv1.Table
	document, err := yamlfile.Unmarshal(name, text, &table)
	if err != nil {
		return nil, err
	}
	return &Table{Name: name, cases: table.GetCases(), document: document}, nil
}

// Result is how one case went.
type Result struct {
	// Name is the case's name, and Place where it stands.
	Name  string
	Place yamlfile.Position
	// Peer and Method are the call's, as the table has them.
	Peer, Method string
	// Want is what was wanted, and Got what was decided and why, in words.
	Want, Got string
	// Err is why the case failed; nil when it passed.
	Err error
	// Rule is the rule that decided; nil when none did.
	Rule *policy.Rule
	// Unknown says that no contract has the method, and that the case has no name that would say that this is its point. It may be a slip, which
	// lets a denial pass for what it is not.
	Unknown bool
	// Took is how long it took.
	Took time.Duration
}

// Run runs all cases.
func (t *Table) Run(p *policy.Policy, set *contracts.Set) []Result {
	results := make([]Result, 0, len(t.cases))
	for i, c := range t.cases {
		begin := time.Now()
		r := Result{Name: nameOf(c), Place: t.document.At("cases", i), Peer: c.GetPeer(), Method: c.GetMethod(), Want: wanted(c)}
		_, err := set.Method(c.GetMethod())
		r.Unknown = err != nil && c.GetName() == ""
		r.run(c, p, set)
		r.Took = time.Since(begin)
		results = append(results, r)
	}
	return results
}

var (
	errOtherwise = errors.New("it is decided otherwise")
	errUndecided = errors.New("it depends on the request, which the case does not have; add one under request")
	errOtherRule = errors.New("another rule decides")
	errNoRule    = errors.New("no rule decides; what no rule allows is denied")
)

func (r *Result) run(c *policyv1.Case, p *policy.Policy, set *contracts.Set) {
	call, err := callOf(c, p, set)
	if err != nil {
		r.Got, r.Err = "nothing: "+err.Error(), err
		return
	}
	verdict := p.Decide(call)
	r.Rule, r.Got = verdict.Rule, Describe(verdict)
	switch {
	case verdict.Undecided:
		r.Err = errUndecided
	case verdict.Allowed != (c.GetWant() == allowed):
		r.Err = errOtherwise
	case c.GetRule() == "":
	case verdict.Rule == nil:
		r.Err = errNoRule
	case c.GetRule() != verdict.Rule.Why && c.GetRule() != verdict.Rule.Written:
		r.Err = errOtherRule
	}
}

// callOf makes the call that a case is about.
func callOf(c *policyv1.Case, p *policy.Policy, set *contracts.Set) (policy.Call, error) {
	id, err := policyfile.ParseID(p.TrustDomain(), c.GetPeer())
	if err != nil {
		return policy.Call{}, fmt.Errorf("peer: %q is no workload's SPIFFE ID: %w; right would be /risk or spiffe://bank.test/risk", c.GetPeer(), err)
	}
	call := policy.Call{Method: "/" + c.GetMethod(), Peer: &identity.Peer{ID: id}, UserErr: policy.ErrNoUser}
	if c.GetUser() != nil {
		call.User, call.UserErr = policy.UserOf(c.GetUser()), nil
	}
	if c.GetRequest() == nil {
		return call, nil
	}
	json, err := protojson.Marshal(c.GetRequest())
	if err != nil {
		return policy.Call{}, fmt.Errorf("request: %w", err)
	}
	if call.Request, err = set.Request(c.GetMethod(), json); err != nil {
		return policy.Call{}, fmt.Errorf("request: %w", err)
	}
	return call, nil
}

// The outcomes, as tables have them.
const (
	allowed = "allowed"
	denied  = "denied"
)

func nameOf(c *policyv1.Case) string {
	if c.GetName() != "" {
		return c.GetName()
	}
	return fmt.Sprintf("%s %s %s", c.GetPeer(), c.GetMethod(), c.GetWant())
}

func wanted(c *policyv1.Case) string {
	if c.GetRule() == "" {
		return c.GetWant()
	}
	return fmt.Sprintf("%s by the rule %q", c.GetWant(), c.GetRule())
}

// Describe says in words what was decided and why, with the place of the rule.
func Describe(v policy.Verdict) string {
	switch {
	case v.Undecided:
		return "undecided: " + v.Reason
	case !v.Allowed:
		return denied + ": " + v.Reason
	case v.Rule.Why == "":
		return fmt.Sprintf("%s: %s: allowed for %s", allowed, v.Rule.Place(), v.Rule.Written)
	default:
		return fmt.Sprintf("%s: %s: allowed for %s: %s", allowed, v.Rule.Place(), v.Rule.Written, v.Rule.Why)
	}
}

// Failed counts the cases that failed.
func Failed(results []Result) int {
	failed := 0
	for _, r := range results {
		if r.Err != nil {
			failed++
		}
	}
	return failed
}

// Untested returns the rules of a policy that decided none of the cases, in the order of the file. Those in shadow decide nothing.
func Untested(p *policy.Policy, results []Result) []*policy.Rule {
	tested := make(map[*policy.Rule]bool)
	for _, r := range results {
		tested[r.Rule] = true
	}
	var rules []*policy.Rule
	for service := range p.Services() {
		for _, m := range service.Methods {
			for _, r := range m.Rules {
				if !r.Shadow && !tested[r] {
					rules = append(rules, r)
				}
			}
		}
	}
	return rules
}
