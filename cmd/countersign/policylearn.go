package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"time"

	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/contracts"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/learn"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

type policyLearnCommand struct {
	workload
	policyFlags
	auditServer
	Since      time.Duration `placeholder:"DURATION" help:"How far back to look; by default 24h, and in a file as far as it goes."`
	From       string        `placeholder:"FILE" help:"Read the decisions from a file with one in a line, as audit query --json writes it, or - for standard input. No service is asked then."`
	Format     string        `default:"text" enum:"text,markdown" help:"How to write the report: text or markdown (${default})."`
	Least      string        `placeholder:"FILE" help:"Write the least policy that would have allowed what was allowed to a file that is not there yet, or - for standard output instead of the report."`
	WithDenied bool          `name:"with-denied" help:"Put what was denied into the least policy too, as comments."`
}

// Help implements kong's long help.
func (c *policyLearnCommand) Help() string {
	return `Decisions by this version of the policy say which rule made them. Those of other versions are matched with the rules by peer and method; where
conditions decide, a rule only may have been used, and is listed as such. What may be missing in the record is said: decisions that a service lost, services that
recorded nothing, and a record that is shorter than was asked for.

The least policy allows nothing that the policy does not allow. It names each caller that was let in by its own SPIFFE ID, has every method, and keeps who serves
what, conditions that calls were let in under, the rules that deny any of these callers, rules in shadow, and all revocations. It is one
file, also where the policy is several. What happens once a year is not in a record of a day: read it before it takes the place of another one.`
}

// Validate implements kong's check of a command.
func (c *policyLearnCommand) Validate() error {
	var errs []error
	if c.Since < 0 {
		errs = append(errs, fmt.Errorf("--since: %v is below zero; right would be 24h", c.Since))
	}
	if c.WithDenied && c.Least == "" {
		errs = append(errs, errors.New("--with-denied: there is no least policy to put them into; say where it goes with --least"))
	}
	return errors.Join(errs...)
}

// day is how far back the audit service is asked by default.
const day = 24 * time.Hour

func (c *policyLearnCommand) Run(ctx context.Context, s *session) error {
	p, set, err := c.load(s)
	if err != nil {
		return err
	}
	learner := learn.New(p)
	var since time.Time
	if c.Since == 0 && c.From == "" {
		c.Since = day
	}
	if c.Since > 0 {
		since = time.Now().Add(-c.Since)
	}
	if err := c.read(ctx, s, since, learner); err != nil {
		return err
	}
	if c.Least == "-" {
		text, err := learner.Least(set, c.WithDenied)
		if err == nil {
			_, err = s.stdout.Write(text)
		}
		return err
	}
	if err := c.report(s, learner.Report(since)); err != nil || c.Least == "" {
		return err
	}
	return c.writeLeast(s, learner, set)
}

// read gives the learner all decisions since a moment.
func (c *policyLearnCommand) read(ctx context.Context, s *session, since time.Time, learner *learn.Learner) error {
	if c.From == "" {
		to := server{Addr: c.Audit, Expect: c.Expect}
		return to.dialled(ctx, s, c.workload, func(_ *dial.Workload, conn *grpc.ClientConn) error {
			return dial.Explain(addAll(learner, learn.FromService(ctx, auditv1.NewAuditServiceClient(conn), since)))
		})
	}
	if c.From == "-" {
		return addAll(learner, learn.FromLines("standard input", s.stdin, since))
	}
	file, err := os.Open(c.From)
	if err != nil {
		return fmt.Errorf("--from: %w", err)
	}
	defer file.Close()
	return addAll(learner, learn.FromLines(c.From, file, since))
}

func addAll(learner *learn.Learner, records iter.Seq2[*auditv1.StoredRecord, error]) error {
	for record, err := range records {
		if err != nil {
			return err
		}
		learner.Add(record)
	}
	return nil
}

func (c *policyLearnCommand) report(s *session, report []learn.Section) error {
	if c.Format == "markdown" {
		return learn.Markdown(s.stdout, report)
	}
	for i, section := range report {
		if i > 0 {
			s.out.Printf("\n")
		}
		s.out.Printf("%s\n\n", s.out.Say(console.Strong, section.Title))
		if len(section.Rows) == 0 {
			s.out.Printf("  %s\n", s.out.Say(console.Faint, section.Else))
			continue
		}
		if len(section.Headers) == 1 { // sentences
			for _, row := range section.Rows {
				s.out.Printf("  %s\n", s.out.Say(console.Wary, row[0]))
			}
			continue
		}
		var rows [][]console.Cell
		for _, row := range section.Rows {
			var cells []console.Cell
			for _, text := range row {
				cells = append(cells, console.Cell{Text: or(text)})
			}
			rows = append(rows, cells)
		}
		s.out.Table(section.Headers, rows)
	}
	return nil
}

// writeLeast writes the least policy to a file that is not there yet: a policy file that servers read would be in force before anybody has read it.
func (c *policyLearnCommand) writeLeast(s *session, learner *learn.Learner, set *contracts.Set) (err error) {
	text, err := learner.Least(set, c.WithDenied)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(c.Least, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("--least: %s is there already; name a file that is not, and put it in place with: countersign policy apply", c.Least)
	}
	if err != nil {
		return fmt.Errorf("--least: %w", err)
	}
	_, err = file.Write(text)
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("--least: %w", err)
	}
	s.out.Printf("\nThe least policy is in %s. Compare it, and put it in place with: countersign policy apply %[1]s\n", c.Least)
	return nil
}
