package main

import "github.com/countersign-mesh/countersign/cmd/countersign/internal/policyview"

type policyMatrixCommand struct {
	policyFlags
	Format string `default:"text" enum:"text,markdown,html" placeholder:"FORMAT" help:"text, markdown (to commit beside the policy) or html (one page, to look at and to print); ${default} by default."`
}

// Help implements kong.HelpProvider.
func (policyMatrixCommand) Help() string {
	return `The rows are all methods that have rules, service by service, those that nobody may call among them. The columns are all callers that a rule names: workloads of the policy's own trust domain first, then those of others, and then patterns such as /tellers/**. In the column of a pattern stands what holds for those whom only the pattern names.

Each cell is what the policy decides on that call: allowed, allowed under a condition (the notes have the conditions), denied by a rule, revoked, or allowed by no rule. It also shows where a rule for more than this caller decides, and what would be if the rules in shadow were enforced.

Whoever has no column may call nothing.`
}

func (c *policyMatrixCommand) Run(s *session) error {
	p, _, err := c.load(s)
	if err != nil {
		return err
	}
	matrix := policyview.NewMatrix(p)
	switch c.Format {
	case "markdown":
		s.out.Printf("%s", matrix.Markdown())
		return nil
	case "html":
		return matrix.WriteHTML(s.stdout)
	default:
		matrix.WriteText(s.out)
		return nil
	}
}
