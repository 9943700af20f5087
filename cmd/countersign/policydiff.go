package main

import (
	"fmt"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policyview"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

type policyDiffCommand struct {
	Old         string `arg:"" expects:"the policy file as it was" help:"The policy file as it was, such as a copy of the one in force."`
	New         string `arg:"" expects:"the policy file as it is to be" help:"The policy file as it is to be."`
	Descriptors string `placeholder:"FILE" help:"The contracts of the services that the policies are about, as buf build -o FILE writes them. By default those of the bank."`
	Format      string `default:"text" enum:"text,markdown,json" placeholder:"FORMAT" help:"text, markdown (for a change that is up for review) or json (for programs); ${default} by default."`
	ExitCode    bool   `help:"Exit with 1 when something differs, and with 2 when the files could not be compared."`
}

// Help implements kong.HelpProvider.
func (policyDiffCommand) Help() string {
	return `It compares what the policies mean, not their lines: which peer gains or loses which method, under which condition, what is denied, what is in shadow or is enforced now, who is revoked, who serves what, and which services and methods have rules. Where a rule names many, as /tellers/** does, the change is said once, with those whom it does not touch.

Of comments, order, reasons (why), and rules that others make redundant nothing is said: no peer gains or loses anything by them.

To compare with what is committed: git show HEAD:policy.yaml > old.yaml, then countersign policy diff old.yaml policy.yaml

JSON is {"changes": [...]}. Each change has a kind, and what it is about: peer (whole, with /** for all below), except and among (others within peer), service, method, before and after (each with state, when, unless), from_shadow, to_shadow, serial, authority.
The kinds: gains, loses, condition_added, condition_removed, condition_changed, deny_added, deny_removed, shadow_changed; revoked, restored; served_by_added, served_by_removed; service_added, service_removed, method_added, method_removed.
The states: allowed, conditional, denied, not_allowed, revoked.`
}

func (c *policyDiffCommand) Run(s *session) error {
	changes, err := c.changes()
	if err != nil && c.ExitCode {
		return &codeError{code: codeUsage, error: err} // 1 says that they differ; diff(1) does the same
	}
	if err != nil {
		return err
	}
	switch c.Format {
	case "markdown":
		s.out.Printf("%s", policyview.ChangesMarkdown(changes))
	case "json":
		if err := policyview.WriteChangesJSON(s.stdout, changes); err != nil {
			return err
		}
	default:
		policyview.WriteChanges(s.out, changes)
	}
	if c.ExitCode && len(changes) > 0 {
		return fmt.Errorf("the policies differ")
	}
	return nil
}

func (c *policyDiffCommand) changes() ([]policyview.Change, error) {
	set, err := policyFlags{Descriptors: c.Descriptors}.contracts()
	if err != nil {
		return nil, err
	}
	old, err := policy.Load(c.Old, policy.WithDescriptors(set))
	if err != nil {
		return nil, err
	}
	current, err := policy.Load(c.New, policy.WithDescriptors(set))
	if err != nil {
		return nil, err
	}
	return policyview.Diff(old, current), nil
}
