package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/contracts"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policycheck"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policyfile"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

type policyInstallCommand struct {
	New         string `arg:"" expects:"the policy file to install" help:"The policy file to install. What it includes is read beside the file of --to."`
	To          string `required:"" placeholder:"FILE" help:"Where the services of the mesh read their policy."`
	Descriptors string `placeholder:"FILE" help:"The contracts of the services that the policy is about, as buf build -o FILE writes them. By default those of the bank."`
}

// Help implements kong's long help.
func (c *policyInstallCommand) Help() string {
	return `For the start of a mesh: it may run each time. The policy is checked and put in place whole, if there is none yet. One that is there stays, whatever it
says, so that a revocation outlives a restart; to put another one in force: countersign policy apply. The exit code is 0 then too, also when the one
that is there is not good: what is wrong with it is shown, and how to mend it.`
}

func (c *policyInstallCommand) Run(s *session) error {
	set, err := policyFlags{Descriptors: c.Descriptors}.contracts()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(c.New)
	if err != nil {
		return fmt.Errorf("read the policy: %w", err)
	}
	there, err := os.ReadFile(c.To)
	if err == nil {
		return c.keep(s, set, text, there)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("--to: %w", err)
	}
	version, err := c.check(text, set)
	if err != nil {
		return fmt.Errorf("nothing was installed: %s is not good:\n%w", c.New, err)
	}
	installed, err := policyfile.Install(c.To, string(text))
	if err != nil {
		return err
	}
	if !installed { // somebody else was faster
		if there, err = os.ReadFile(c.To); err != nil {
			return fmt.Errorf("--to: %w", err)
		}
		return c.keep(s, set, text, there)
	}
	s.out.Printf("%s has the policy of %s now, version %s.\n", c.To, c.New, version)
	return nil
}

// check holds a text against the contracts, as if it stood in its place, and returns its version.
func (c *policyInstallCommand) check(text []byte, set *contracts.Set) (version string, err error) {
	report := policycheck.Check(policy.Text(c.To, nil).WithMain(text), set)
	return report.Version, errors.Join(report.Errors...)
}

// keep says how the policy that is there and the one that was to be installed differ. Neither that they do nor what the one that is there says is an
// error: it may hold revocations, so nobody must be led to take it away, and what a service cannot serve with it refuses by itself. A mesh whose
// other parts wait for this command could not even be mended if it failed.
func (c *policyInstallCommand) keep(s *session, set *contracts.Set, text, there []byte) error {
	version, unfit := c.check(there, set)
	if unfit == nil && bytes.Equal(text, there) {
		s.out.Printf("%s has this policy already, version %s; nothing was changed.\n", c.To, version)
		return nil
	}
	other, err := c.check(text, set)
	switch {
	case unfit != nil:
		s.out.Printf("%s\n%v\n\n", s.out.Say(console.Bad, fmt.Sprintf("%s stays as it is, AND IS NOT GOOD: a service that it does not fit refuses to start.", c.To)), unfit)
		c.mend(s, err)
	case err != nil:
		s.out.Printf("%s stays as it is, version %s. %s says something else, and is not good:\n%v\n", c.To, version, c.New, err)
	default:
		s.out.Printf("%s stays as it is, version %s. %s says something else, version %s; to see what, and put it in force: countersign policy apply %[3]s\n",
			c.To, version, c.New, other)
	}
	return nil
}

// mend says how to get a good policy into the place of one that is not. wrong is what is wrong with the one that was to be installed.
func (c *policyInstallCommand) mend(s *session, wrong error) {
	if wrong != nil {
		s.out.Printf("%s is not good either, so mend that first:\n%v\n\n", c.New, wrong)
	}
	s.out.Printf(`To put %s in its place, which loses no revocation unnoticed and asks no service:
  countersign policy apply --offline --policy %s %[1]s
or, when these are files of the containers of deploy/compose, in that directory:
  docker compose run --rm --no-deps operator policy apply --offline %[1]s
`, c.New, c.To)
}
