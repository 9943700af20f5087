package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/contracts"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policyview"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rollout"
	"github.com/countersign-mesh/countersign/pkg/policy"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

type policyApplyCommand struct {
	workload
	policyFlags
	auditServer
	New        string        `arg:"" expects:"the file with the new policy" help:"The file with the new policy. What it includes is read beside the file that it takes the place of."`
	Tests      string        `placeholder:"TABLE" help:"A table of tests, as policy test has it, that the new policy must pass; by default the one beside it, if there is one: new_test.yaml for new.yaml."`
	Watch      time.Duration `default:"30s" placeholder:"DURATION" help:"How long the decisions are watched once the new policy is in force (${default})."`
	NoWatch    bool          `name:"no-watch" help:"Do not watch the decisions. The old policy is then put back only when a service does not take the new one."`
	MaxDenials int           `default:"0" placeholder:"N" help:"How many calls may be denied meanwhile that the old policy let in (${default}). More put the old policy back."`
	Unrevoke   bool          `help:"Take revocations back that the new file does not have."`
	Yes        bool          `short:"y" xor:"ask" help:"Do not ask."`
	DryRun     bool          `xor:"ask" help:"Check, test and show the difference, and change nothing."`
}

// auditServer is where decisions are kept.
type auditServer struct {
	Audit  string `default:"audit" placeholder:"ADDR" help:"The audit service: HOST:PORT, or the name of a service of the mesh that runs in --run-dir (${default})."`
	Expect string `default:"/audit" placeholder:"ID" help:"The SPIFFE ID that it must have (${default})."`
}

// Help implements kong's long help.
func (c *policyApplyCommand) Help() string {
	return `The new policy is checked, and tested if there is a table; what it changes is shown, and then it takes the place of the old one: at once and whole,
unless somebody else changed the file meanwhile. When every service has it in force, the decisions are watched. A call that is denied now and was
let in before puts the old policy back, and so does a service that does not take the new one, an audit service that is gone, and Ctrl-C. Where
the old policy asks for what is in a request, which is not recorded, a denied call counts as one that was let in, unless the new policy
asks the same. The exit code is 1 whenever the new policy does not stay.

The old policy is kept beside the file, as FILE.before-VERSION. To go back later: countersign policy apply FILE.before-VERSION. Should this process be
killed half-way, the file has the old policy or the new one, whole, and one rename puts the old one back: mv FILE.before-VERSION FILE.`
}

// Validate implements kong's check of a command.
func (c *policyApplyCommand) Validate() error {
	var errs []error
	if c.Watch <= 0 {
		errs = append(errs, fmt.Errorf("--watch: %v is not above zero; right would be 30s, or --no-watch", c.Watch))
	}
	if c.MaxDenials < 0 {
		errs = append(errs, fmt.Errorf("--max-denials: %d is below zero", c.MaxDenials))
	}
	return errors.Join(errs...)
}

var (
	errNotConfirmed = errors.New("nothing was changed: it was not confirmed; --yes does not ask")
	errRolledBack   = errors.New("the old policy is back")
)

func (c *policyApplyCommand) Run(ctx context.Context, s *session) error {
	set, err := c.contracts()
	if err != nil {
		return err
	}
	at, err := findPlace(s, c.Policy)
	if err != nil {
		return err
	}
	change, err := c.prepare(at.policy, set)
	if err != nil || change.Same() {
		if err == nil {
			s.out.Printf("%s has this policy already, %s; nothing was changed.\n", change.Path, change.Old.Version())
		}
		return err
	}
	c.show(s, change)
	if err := c.keepsRevocations(change); err != nil || c.DryRun {
		return err
	}
	if at.unasked != "" && !c.NoWatch {
		return fmt.Errorf("nothing was changed: what the new policy denies could not be watched: %s Add --no-watch to write the file alone", at.unasked)
	}
	if !c.Yes {
		if err := confirm(ctx, s); err != nil {
			return err
		}
	}
	return c.rollOut(ctx, s, rollout.Rollout{
		Change: change, Watch: c.Watch, MaxDenials: c.MaxDenials, Hurry: s.hurry, Say: s.out.Printf,
	}, at)
}

// prepare compiles the new policy and holds it against the contracts and the tests.
func (c *policyApplyCommand) prepare(path string, set *contracts.Set) (rollout.Change, error) {
	text, err := os.ReadFile(c.New)
	if err != nil {
		return rollout.Change{}, fmt.Errorf("read the new policy: %w", err)
	}
	change, err := rollout.Prepare(path, c.New, text, set)
	if err != nil {
		return rollout.Change{}, err
	}
	if err := change.New.Covers(methodsOf(change.New, set)); err != nil {
		return rollout.Change{}, fmt.Errorf("the new policy and the services do not fit each other:\n%w", err)
	}
	table, err := c.table()
	if err != nil || table == "" {
		return change, err
	}
	if err := runTests(table, change.New, set); err != nil {
		return rollout.Change{}, fmt.Errorf("the new policy does not pass the tests of %s:\n%w", table, err)
	}
	return change, nil
}

// table is the table of tests that the new policy must pass: the one that is named, or else the one that stands beside it, if there is one.
func (c *policyApplyCommand) table() (string, error) {
	if c.Tests != "" {
		return c.Tests, nil
	}
	beside := tableOf(c.New)
	switch _, err := os.Stat(beside); {
	case errors.Is(err, os.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("look for the tests of the new policy: %w", err)
	}
	return beside, nil
}

// methodsOf are the methods of all services that the policy must have rules for, and of those others that it has rules for.
func methodsOf(p *policy.Policy, set *contracts.Set) map[string][]string {
	methods := make(map[string][]string)
	add := func(service string) {
		if names, ok := set.Methods(service); ok {
			methods[service] = names
		}
	}
	for _, name := range set.Required() {
		add(name)
	}
	for service := range p.Services() {
		add(service.Name)
	}
	return methods
}

// show says what the change comes to: who gains and who loses what.
func (c *policyApplyCommand) show(s *session, change rollout.Change) {
	s.out.Printf("%s: policy %s takes the place of %s.\n", change.Path, change.New.Version(), change.Old.Version())
	policyview.WriteChanges(s.out, policyview.Diff(change.Old, change.New))
}

// keepsRevocations fails when the new policy believes again whom the old one does not, and nobody said that this is meant: a file that was written
// before an incident does not know of it.
func (c *policyApplyCommand) keepsRevocations(change rollout.Change) error {
	missing, err := change.Unrevoked()
	if err != nil || len(missing) == 0 || c.Unrevoke {
		return err
	}
	return fmt.Errorf("nothing was changed: the new file lacks %d of the revocations of %s, so that they would be taken back:\n  - %s\nadd them to it, or --unrevoke if that is meant",
		len(missing), change.Path, strings.Join(missing, "\n  - "))
}

// confirm asks a person.
func confirm(ctx context.Context, s *session) error {
	s.out.Printf("Put it in place? [y/N] ")
	answered := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(s.stdin).ReadString('\n') // what cannot be read is no yes
		answered <- line
	}()
	select {
	case <-ctx.Done():
		return errNotConfirmed
	case answer := <-answered:
		switch strings.ToLower(strings.TrimSpace(answer)) {
		case "y", "yes":
			return nil
		}
		return errNotConfirmed
	}
}

// rollOut makes the change, and says what became of it.
func (c *policyApplyCommand) rollOut(ctx context.Context, s *session, r rollout.Rollout, at place) error {
	if at.unasked != "" {
		outcome, err := r.Run(ctx)
		if err != nil {
			return err
		}
		s.out.Printf("No service was asked: %s\n", at.unasked)
		return c.report(s, r, outcome)
	}
	return c.with(ctx, s, func(self *dial.Workload) (err error) {
		var conns connections
		defer func() { err = errors.Join(err, conns.close()) }()
		if err := c.connect(s, self, &r, at, &conns); err != nil {
			return fmt.Errorf("nothing was changed: %w", err)
		}
		outcome, err := r.Run(ctx)
		reported := c.report(s, r, outcome)
		if err == nil {
			err = reported
		}
		return err
	})
}

// connections are closed together.
type connections []*grpc.ClientConn

func (c connections) close() error {
	var errs []error
	for _, conn := range c {
		errs = append(errs, conn.Close())
	}
	return errors.Join(errs...)
}

// connect gives the rollout its services, and the audit service.
func (c *policyApplyCommand) connect(s *session, self *dial.Workload, r *rollout.Rollout, at place, conns *connections) error {
	r.Self = self.ID()
	for _, service := range at.services {
		conn, err := dialService(self, service)
		if err != nil {
			return err
		}
		*conns = append(*conns, conn)
		r.Servers = append(r.Servers, rollout.Server{Name: service.Name, Conn: conn})
	}
	if c.NoWatch {
		return nil
	}
	target, err := dial.Find(s.dir, self.ID().TrustDomain(), c.Audit, c.Expect)
	if err != nil {
		return fmt.Errorf("which audit service? %w", err)
	}
	conn, err := self.Dial(target)
	if err != nil {
		return err
	}
	*conns = append(*conns, conn)
	r.Audit = auditv1.NewAuditServiceClient(conn)
	return nil
}

// report says what became of a change, and fails when the new policy does not stay.
func (c *policyApplyCommand) report(s *session, r rollout.Rollout, o rollout.Outcome) error {
	if r.Audit != nil && (o.Copy != "" || o.RolledBack != nil) {
		s.out.Printf("%d decisions by the new policy were seen.\n", o.Decided)
	}
	if o.Lost > 0 {
		s.out.Printf("%s\n", s.out.Say(console.Wary, fmt.Sprintf("%d decisions were lost on their way to the audit service: there may be denials that nobody saw.", o.Lost)))
	}
	showDenied(s.out, o.Denied)
	switch {
	case o.RolledBack != nil && o.Copy == "":
		return fmt.Errorf("%w: %w", errRolledBack, o.RolledBack)
	case o.Copy != "" && o.RolledBack == nil:
		s.out.Printf("The new policy stays. To go back to the old one: countersign policy apply %s\n", o.Copy)
	}
	return nil
}

func showDenied(out *console.Console, denied []rollout.Denied) {
	if len(denied) == 0 {
		return
	}
	var rows [][]console.Cell
	for _, d := range denied {
		rows = append(rows, []console.Cell{
			{Text: d.Peer, Tone: console.Strong}, {Text: d.Method}, {Text: fmt.Sprint(d.Count), Tone: console.Bad}, {Text: d.DecisionID},
		})
	}
	out.Printf("\nDenied now, and let in before:\n\n")
	out.Table([]string{"peer", "method", "calls", "one of the decisions"}, rows)
	out.Printf("\nWhy: countersign audit show %s\n", denied[0].DecisionID)
}
