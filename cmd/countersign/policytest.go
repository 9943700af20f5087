package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/contracts"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policytest"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

type policyTestCommand struct {
	policyFlags
	Tables   []string `arg:"" optional:"" name:"table" help:"Files with tables of tests; by default the one beside the policy: bank_test.yaml for bank.yaml."`
	JUnit    string   `name:"junit" placeholder:"FILE" help:"Also write a report as JUnit XML, for CI systems."`
	AllRules bool     `help:"Fail when a rule decides no case. Rules in shadow decide nothing and are left out."`
}

func (c *policyTestCommand) Run(s *session) error {
	loaded, set, err := c.load(s)
	if err != nil {
		return err
	}
	tables := c.Tables
	if len(tables) == 0 {
		tables = []string{tableOf(loaded.Name())}
	}
	var all []policytest.Result
	var report policytest.Report
	var errs []error
	for _, path := range tables {
		table, err := policytest.Read(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		results := table.Run(loaded, set)
		showResults(s.out, results)
		report.Add(path, results)
		all = append(all, results...)
	}
	if failed := policytest.Failed(all); failed > 0 {
		errs = append(errs, fmt.Errorf("%d of %s failed", failed, plural(len(all), "case")))
	}
	if c.AllRules {
		errs = append(errs, allRules(s.out, loaded, all, &report))
	}
	errs = append(errs, c.write(&report))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	s.out.Printf("%s, policy version %s.\n", s.out.Say(console.Good, "Passed: "+plural(len(all), "case")), loaded.Version())
	return nil
}

// runTests holds a policy against a table of tests, and fails with all that it does not pass.
func runTests(path string, p *policy.Policy, set *contracts.Set) error {
	table, err := policytest.Read(path)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range table.Run(p, set) {
		if r.Err != nil {
			errs = append(errs, r.Place.Errorf("%s: %w: want %s, is %s", r.Name, r.Err, r.Want, r.Got))
		}
	}
	return errors.Join(errs...)
}

// tableOf is the table of tests that belongs to a policy file.
func tableOf(path string) string {
	extension := filepath.Ext(path)
	return strings.TrimSuffix(path, extension) + "_test" + extension
}

// showResults shows the cases that failed, and those that may pass for a wrong reason.
func showResults(out *console.Console, results []policytest.Result) {
	for _, r := range results {
		if r.Err != nil {
			out.Printf("%s %s\n", out.Say(console.Bad, "FAIL"), out.Say(console.Strong, r.Name))
			out.Printf("     %s:%d: %v\n     want  %s\n     is    %s\n", r.Place.File, r.Place.Line, r.Err, r.Want, r.Got)
		}
	}
	for _, r := range results {
		if r.Unknown && r.Err == nil {
			out.Printf("%s\n", out.Say(console.Faint, fmt.Sprintf("%s:%d: note: no contract has %s", r.Place.File, r.Place.Line, r.Method)))
		}
	}
}

// allRules fails when a rule decides none of the cases, and shows which.
func allRules(out *console.Console, p *policy.Policy, results []policytest.Result, report *policytest.Report) error {
	untested := policytest.Untested(p, results)
	report.AddUntested(p, untested)
	if len(untested) == 0 {
		return nil
	}
	for _, r := range untested {
		out.Printf("%s\n", out.Say(console.Bad, fmt.Sprintf("%s: no case is decided by this rule: %s %s", r.Position, r.Effect, r.Written)))
	}
	verb := "decide"
	if len(untested) == 1 {
		verb = "decides"
	}
	return fmt.Errorf("%s of %s %s no case", plural(len(untested), "rule"), p.Name(), verb)
}

// write writes the report where --junit says.
func (c *policyTestCommand) write(report *policytest.Report) error {
	if c.JUnit == "" {
		return nil
	}
	file, err := os.Create(c.JUnit)
	if err != nil {
		return fmt.Errorf("--junit: %w", err)
	}
	if err := errors.Join(report.Write(file), file.Close()); err != nil {
		return fmt.Errorf("--junit: %w", err)
	}
	return nil
}
