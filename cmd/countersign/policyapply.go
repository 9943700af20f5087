package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/contracts"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policyfile"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policyview"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rollout"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

type policyApplyCommand struct {
	workload
	policyFlags
	auditServer
	New        string        `arg:"" expects:"the file with the new policy" help:"The file with the new policy. What it includes is read beside the file that it takes the place of."`
	Tests      string        `placeholder:"TABLE" help:"A table of tests, as policy test has it, that the new policy must pass; by default the one beside it, if there is one: new_test.yaml for new.yaml."`
	Watch      time.Duration `default:"30s" placeholder:"DURATION" help:"How long the decisions are watched once the new policy is in force (${default})."`
	NoWatch    bool          `name:"no-watch" help:"Do not watch the decisions. The old policy is then put back only when a service does not take the new one."`
	Offline    bool          `help:"Replace the file alone: no service is asked, and nothing watched. For when none runs, as after an upgrade that the policy in place does not fit."`
	MaxDenials int           `default:"0" placeholder:"N" help:"How many calls may be denied meanwhile that the old policy let in (${default}). More put the old policy back."`
	Unrevoke   bool          `help:"Take revocations back that the new file does not have."`
	Yes        bool          `short:"y" xor:"ask" help:"Do not ask."`
	DryRun     bool          `xor:"ask" help:"Check, test and show the difference, and change nothing."`
}

// auditServer is where decisions are kept.
type auditServer struct {
	Audit  string `default:"audit" placeholder:"ADDR" help:"The audit service: HOST:PORT, or the name of a service of the mesh (${default})."`
	Expect string `default:"/audit" placeholder:"ID" help:"The SPIFFE ID that it must have (${default})."`
}

// Help implements kong's long help.
func (c *policyApplyCommand) Help() string {
	return `The new policy is checked, and tested if there is a table; what it changes is shown, and then it takes the place of the old one: at once and whole,
unless somebody else changed the file meanwhile. When every service has it in force, the decisions are watched. A call that is denied now and was
let in before puts the old policy back, and so does a service that does not take the new one, an audit service that is gone, and Ctrl-C. Where
the old policy asks for what is in a request, which is not recorded, a denied call counts as one that was let in, unless the new policy
asks the same. With --offline the file alone is replaced, which also works when no service can run with the policy in place. The exit code is 1 whenever the new policy does not stay.

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
	if c.Offline {
		at.services, at.unasked, c.NoWatch = nil, unaskedWhy, true
	}
	change, err := c.prepare(at.policy, set)
	if unfit, ok := errors.AsType[*rollout.UnfitError](err); ok && c.Offline {
		return c.replaceUnfit(ctx, s, at.policy, set, unfit.Err)
	}
	if err != nil || change.Same() {
		if err == nil {
			s.out.Printf("%s has this policy already, %s; nothing was changed.\n", change.Path, change.Old.Version())
		}
		return err
	}
	c.show(s, change)
	if err := c.keepsRevocations(change.Path, change.Old.Source().Main(), change.New.Source().Main()); err != nil || c.DryRun {
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
	return change, c.fits(change.New, set)
}

// fits holds the new policy against the contracts and the tests.
func (c *policyApplyCommand) fits(changed *policy.Policy, set *contracts.Set) error {
	if err := changed.Covers(methodsOf(changed, set)); err != nil {
		return fmt.Errorf("the new policy and the services do not fit each other:\n%w", err)
	}
	table, err := c.table()
	if err != nil || table == "" {
		return err
	}
	if err := runTests(table, changed, set); err != nil {
		return fmt.Errorf("the new policy does not pass the tests of %s:\n%w", table, err)
	}
	return nil
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
func (c *policyApplyCommand) keepsRevocations(path string, before, after []byte) error {
	if c.Unrevoke {
		return nil
	}
	missing, err := policyfile.Missing(path, string(before), string(after))
	if err != nil {
		return fmt.Errorf("nothing was changed: it is not known whom the policy in place revokes; see to it that the new one revokes them too, and add --unrevoke:\n%w", err)
	}
	if len(missing) == 0 {
		return nil
	}
	var lines []string
	for _, r := range missing {
		switch {
		case r.GetId() != "":
			lines = append(lines, "id: "+r.GetId())
		case r.GetSerial() != "":
			lines = append(lines, "serial: "+r.GetSerial())
		default:
			lines = append(lines, "authority: "+r.GetAuthority())
		}
	}
	return fmt.Errorf("nothing was changed: the new file lacks %d of the revocations of %s, so that they would be taken back:\n  - %s\nadd them to it, or --unrevoke if that is meant",
		len(missing), path, strings.Join(lines, "\n  - "))
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
