package main

import "github.com/countersign-mesh/countersign/cmd/countersign/internal/policyview"

type policyGraphCommand struct {
	policyFlags
	Format string `default:"mermaid" enum:"mermaid,dot" placeholder:"FORMAT" help:"mermaid (for Markdown) or dot (for Graphviz); ${default} by default."`
}

// Help implements kong.HelpProvider.
func (policyGraphCommand) Help() string {
	return `Each caller that a rule names, and each server that served_by names, is a node; patterns such as /tellers/** are drawn with a dashed outline. On an edge from a caller to a server stand the methods that rules are about, service by service, with a remark where they apply under a condition. A service that nobody serves is a node of its own.

Rules that deny are drawn in red and end in a cross (mermaid) or a bar (dot); rules in shadow are dotted or dashed. The graph shows the rules, not what they come to together: for that see countersign policy matrix.

To draw it with Graphviz: countersign policy graph --format dot | dot -Tsvg > policy.svg`
}

func (c *policyGraphCommand) Run(s *session) error {
	p, _, err := c.load(s)
	if err != nil {
		return err
	}
	if c.Format == "dot" {
		s.out.Printf("%s", policyview.DOT(p))
		return nil
	}
	s.out.Printf("%s", policyview.Mermaid(p))
	return nil
}
