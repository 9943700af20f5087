package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policycheck"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

type policyCheckCommand struct {
	policyFlags
	Strict bool `help:"Let no warning pass."`
}

// Run writes what it finds to standard output, one a line behind file, line and column, as compilers do.
func (c *policyCheckCommand) Run(s *session) error {
	set, err := c.contracts()
	if err != nil {
		return err
	}
	path, err := c.path(s)
	if err != nil {
		return err
	}
	source, err := policy.Read(path)
	if err != nil {
		return err
	}
	report := policycheck.Check(source, set)
	for _, found := range report.Errors {
		s.out.Printf("%s\n", s.out.Say(console.Bad, found.Error()))
	}
	for _, found := range report.Warnings {
		s.out.Printf("%s\n", s.out.Say(console.Wary, found.Error()))
	}
	if len(report.Errors) > 0 || c.Strict && len(report.Warnings) > 0 {
		return errors.New(counted(path, report))
	}
	s.out.Printf("%s is good: %s, %s and %s in %s, version %s.\n", path, plural(report.Services, "service"), plural(report.Methods, "method"),
		plural(report.Rules, "rule"), plural(report.Files, "file"), report.Version)
	return nil
}

// counted says what keeps a policy from passing: "bank.yaml has 2 errors and 1 warning".
func counted(path string, report policycheck.Report) string {
	var found []string
	if n := len(report.Errors); n > 0 {
		found = append(found, plural(n, "error"))
	}
	if n := len(report.Warnings); n > 0 {
		found = append(found, plural(n, "warning"))
	}
	return path + " has " + strings.Join(found, " and ")
}

// plural counts things by a regular noun.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
