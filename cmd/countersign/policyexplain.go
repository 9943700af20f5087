package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/contracts"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/explain"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policyfile"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/site"
	"github.com/countersign-mesh/countersign/pkg/policy"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

type policyExplainCommand struct {
	workload
	policyFlags
	Peer    string   `required:"" placeholder:"ID" help:"The caller: a SPIFFE ID, whole or short, such as /risk."`
	Method  string   `required:"" placeholder:"METHOD" help:"Package.Service/Method; the method alone where only one service known here has it."`
	Request string   `placeholder:"JSON" help:"The request: JSON, @FILE, or - for standard input. Needed where a condition asks for it."`
	User    string   `placeholder:"JSON" help:"The user whose verified transaction token the call carries, such as {\"subject\": \"alice\", \"scope\": \"transfer\", \"context\": {\"amount\": \"1000\"}}; none for a call without. Needed where a rule asks for one."`
	Server  []string `xor:"servers" placeholder:"ADDR" help:"Also ask a server what it would decide by the policy in force, and compare: HOST:PORT, or the name of a service of the mesh. May be given several times."`
	All     bool     `xor:"servers" help:"Also ask every service of the mesh."`
	Expect  string   `placeholder:"ID" help:"The SPIFFE ID that a server given as HOST:PORT must have."`
}

// Help implements kong's long help.
func (c *policyExplainCommand) Help() string {
	return `Nothing is called and nothing recorded. A server is asked with this process's own identity, which the policy must allow to: in the bank, the operator's.
The exit code is 1 when a server differs from the file, in the version of its policy or in what it decides, or cannot be asked. That a call is
denied, or depends on a request or a user that was not given, is no failure.`
}

func (c *policyExplainCommand) Run(ctx context.Context, s *session) error {
	loaded, set, err := c.load(s)
	if err != nil {
		return err
	}
	question, err := c.question(s, loaded, set)
	if err != nil {
		return err
	}
	verdict, answer := question.Ask(loaded)
	showVerdict(s.out, loaded, question, verdict, answer)
	if len(c.Server) == 0 && !c.All {
		return nil
	}
	all, err := c.all(s)
	if err != nil {
		return err
	}
	return c.with(ctx, s, func(self *dial.Workload) error {
		servers := s.mesh.Servers(ctx, append(all, c.named(s, self)...)...) // each one behind a name
		return c.compare(ctx, s, self, servers, question, answer)
	})
}

// question is what the flags ask.
func (c *policyExplainCommand) question(s *session, p *policy.Policy, set *contracts.Set) (explain.Question, error) {
	var q explain.Question
	var errs []error
	var err error
	if q.Peer, err = policyfile.ParseID(p.TrustDomain(), c.Peer); err != nil {
		errs = append(errs, fmt.Errorf("--peer: %q is no workload's SPIFFE ID: %w; right would be /risk or spiffe://bank.test/risk", c.Peer, err))
	}
	method, err := set.Find(c.Method)
	if err != nil {
		errs = append(errs, fmt.Errorf("--method: %w", err))
	}
	q.Method = "/" + method
	if err := userOf(c.User, &q); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil || c.Request == "" {
		return q, err
	}
	in, done, err := requests("--request", c.Request, s.stdin)
	if err != nil {
		return q, err
	}
	text, err := io.ReadAll(in)
	if err := errors.Join(err, done()); err != nil {
		return q, fmt.Errorf("--request: %w", err)
	}
	q.JSON = string(text)
	if q.Request, err = set.Request(method, text); err != nil {
		return q, fmt.Errorf("--request: %w", err)
	}
	return q, nil
}

// noUser is what --user says for a call that carries no token.
const noUser = "none"

// userOf reads what --user says.
func userOf(text string, q *explain.Question) error {
	switch text {
	case "":
		return nil
	case noUser:
		q.NoUser = true
		return nil
	}
	q.User = &policyv1.User{}
	if err := protojson.Unmarshal([]byte(text), q.User); err != nil {
		return fmt.Errorf(`--user: it is neither "none" nor a user as JSON: %w`, err)
	}
	return nil
}

// all are the services of the mesh, when they are to be asked.
func (c *policyExplainCommand) all(s *session) ([]site.Service, error) {
	if !c.All {
		return nil, nil
	}
	mesh, err := s.mesh.Find()
	if err != nil {
		return nil, fmt.Errorf("--all: %w", err)
	}
	return slices.Clone(mesh.Services), nil
}

// named are the servers that the flags name. One that is not known is not left out: it is one that does not answer.
func (c *policyExplainCommand) named(s *session, self *dial.Workload) []site.Service {
	var named []site.Service
	for _, name := range c.Server {
		expect := c.Expect
		if !strings.Contains(name, ":") {
			expect = "" // known for a service's name
		}
		target, err := s.mesh.Target(self.ID().TrustDomain(), name, expect)
		target.Unresolved = err
		named = append(named, site.Service{Name: name, Target: target})
	}
	return named
}

// showVerdict shows what the file decides, and why.
func showVerdict(out *console.Console, p *policy.Policy, q explain.Question, v policy.Verdict, a explain.Answer) {
	lines := []line{
		{"verdict", outcomeCell(a.Outcome)},
		{"method", console.Cell{Text: q.Method}},
		{"caller", console.Cell{Text: q.Peer.String()}},
		{"rule", console.Cell{Text: describeRule(v.Rule)}},
	}
	if v.Rule != nil && v.Rule.Why != "" {
		lines = append(lines, line{"why", console.Cell{Text: v.Rule.Why}})
	}
	if v.Reason != "" {
		lines = append(lines, line{"reason", console.Cell{Text: v.Reason, Tone: console.Wary}})
	}
	switch {
	case v.Shadow.Undecided && v.NeedsUser:
		lines = append(lines, line{"shadow", console.Cell{Text: "with the rules in shadow it would depend on the user"}})
	case v.Shadow.Undecided:
		lines = append(lines, line{"shadow", console.Cell{Text: "with the rules in shadow it would depend on the request"}})
	case v.Shadow.Rule != nil:
		lines = append(lines, line{"shadow", console.Cell{Text: fmt.Sprintf("would be %s, by %s", a.Shadow, describeRule(v.Shadow.Rule))}})
	}
	lines = append(lines, line{"policy", console.Cell{Text: fmt.Sprintf("%s, version %s", p.Name(), a.Version)}})
	for _, l := range lines {
		out.Printf("%s  %s\n", out.Say(console.Faint, fmt.Sprintf("%-8s", l.name)), out.Say(l.Tone, l.Text))
	}
}

// line is one line of what is shown of a decision.
type line struct {
	name string
	console.Cell
}

func outcomeCell(outcome string) console.Cell {
	tone := map[string]console.Tone{explain.Allowed: console.Good, explain.Denied: console.Bad, explain.Undecided: console.Wary}[outcome]
	return console.Cell{Text: or(outcome), Tone: tone}
}

// describeRule is a rule as the file has it: "bank.yaml:12: allow /payments when request.amount.minor_units <= 500".
func describeRule(r *policy.Rule) string {
	if r == nil {
		return none
	}
	text := fmt.Sprintf("%s: %s %s", r.Place(), r.Effect, r.Written)
	if r.Condition() != "" {
		text += " when " + strings.Join(strings.Fields(r.Condition()), " ")
	}
	return text
}

// explainBound is how long the servers may take to answer.
const explainBound = 5 * time.Second

// compare asks servers, shows what they say, and fails when one of them differs from the file or cannot be asked.
func (c *policyExplainCommand) compare(ctx context.Context, s *session, self *dial.Workload, servers []site.Service, q explain.Question, file explain.Answer) error {
	ctx, cancel := context.WithTimeout(ctx, explainBound)
	defer cancel()
	answers, errs := make([]explain.Served, len(servers)), make([]error, len(servers))
	var group sync.WaitGroup
	for i, server := range servers {
		group.Go(func() { answers[i], errs[i] = ask(ctx, self, server, q) })
	}
	group.Wait()
	var rows [][]console.Cell
	var different, silent []string
	for i, server := range servers {
		difference := answers[i].Difference(file)
		switch {
		case errs[i] != nil:
			silent = append(silent, fmt.Sprintf("%s: %v", server.Name, errs[i]))
		case difference != "":
			different = append(different, fmt.Sprintf("%s: %s", server.Name, difference))
		}
		rows = append(rows, serverRow(server.Name, answers[i], difference, errs[i]))
	}
	s.out.Printf("\n")
	s.out.Table([]string{"server", "verdict", "rule", "policy", "with the file"}, rows)
	all := plural(len(servers), "server")
	if len(different)+len(silent) > 0 {
		return errors.Join(listed("the file and %d of %s do not agree", different, all), listed("%d of %s could not be asked", silent, all))
	}
	s.out.Printf("\nThe file and %s agree.\n", all)
	return nil
}

func serverRow(name string, served explain.Served, difference string, err error) []console.Cell {
	state := console.Cell{Text: "agrees", Tone: console.Good}
	switch {
	case err != nil:
		state = console.Cell{Text: "not known", Tone: console.Bad}
	case difference != "":
		state = console.Cell{Text: "differs", Tone: console.Bad}
	case served.Outcome == "":
		state.Text = "agrees; it does not serve the method"
	}
	return []console.Cell{
		{Text: name, Tone: console.Strong}, outcomeCell(served.Outcome), {Text: or(served.Rule)}, {Text: or(served.Version)}, state,
	}
}

// listed is an error of several lines under a heading with their number; nil when there are none.
func listed(heading string, lines []string, all string) error {
	if len(lines) == 0 {
		return nil
	}
	return fmt.Errorf(heading+":\n%s", len(lines), all, strings.Join(lines, "\n"))
}

// ask asks one server.
func ask(ctx context.Context, self *dial.Workload, server site.Service, q explain.Question) (served explain.Served, err error) {
	conn, err := self.Dial(server.Target)
	if err != nil {
		return explain.Served{}, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	served, err = q.AskServer(ctx, conn)
	return served, dial.Explain(err)
}
