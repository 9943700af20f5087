package policyview

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/countersign-mesh/countersign/pkg/policy"
)

// Mermaid returns the graph of a policy as a Mermaid flowchart (https://mermaid.js.org/syntax/flowchart.html), which forges show in Markdown.
func Mermaid(p *policy.Policy) string {
	g := newGraph(p)
	var b strings.Builder
	fmt.Fprintf(&b, "%%%% Who calls whom by %s: arrows are rules that allow, crosses rules that deny, and dotted lines rules in shadow.\n", commentText(p))
	b.WriteString("flowchart LR\n")
	for i, n := range g.nodes {
		fmt.Fprintf(&b, "  n%d%s\n", i, n.mermaid())
	}
	var denials []string
	for i, e := range g.edges {
		fmt.Fprintf(&b, "  n%d %s|%s| n%d\n", e.from, e.mermaid(), mermaidText(e.lines...), e.to)
		if e.effect == policy.Deny {
			denials = append(denials, fmt.Sprint(i))
		}
	}
	b.WriteString("  classDef many stroke-dasharray:4 4\n  classDef revoked stroke:crimson,color:crimson\n  classDef unserved stroke-dasharray:1 3\n")
	if len(denials) > 0 {
		fmt.Fprintf(&b, "  linkStyle %s stroke:crimson\n", strings.Join(denials, ","))
	}
	return b.String()
}

func (n node) mermaid() string {
	text := mermaidText(n.label)
	switch n.kind {
	case manyWorkloads:
		return "([" + text + "]):::many"
	case revokedWorkload:
		return "[" + text + "]:::revoked"
	case unservedService:
		return "{{" + text + "}}:::unserved"
	default:
		return "[" + text + "]"
	}
}

func (e edge) mermaid() string {
	switch {
	case e.effect == policy.Deny && e.shadow:
		return "-.-x"
	case e.effect == policy.Deny:
		return "--x"
	case e.shadow:
		return "-.->"
	default:
		return "-->"
	}
}

// mermaidText writes lines as the quoted text of a node or an edge. Mermaid reads entities (#42;) in them, then Markdown, in which
// stars and underscores are emphasis and www. begins a link, and then HTML.
func mermaidText(lines ...string) string {
	escape := strings.NewReplacer(
		`"`, "#quot;", "#", "#35;", "&", "#amp;", "<", "#lt;", ">", "#gt;", "*", "#42;", "_", "#95;", "`", "#96;", "www.", "www#46;",
	)
	escaped := make([]string, len(lines))
	for i, line := range lines {
		escaped[i] = escape.Replace(line)
	}
	return `"` + strings.Join(escaped, "<br/>") + `"`
}

// DOT returns the graph of a policy in the language of Graphviz (https://graphviz.org/doc/info/lang.html).
func DOT(p *policy.Policy) string {
	g := newGraph(p)
	var b strings.Builder
	fmt.Fprintf(&b, "// Who calls whom by %s: arrows are rules that allow, bars rules that deny, and dashed lines rules in shadow.\n", commentText(p))
	b.WriteString("digraph policy {\n  rankdir=LR\n  node [shape=box, fontname=\"sans-serif\"]\n  edge [fontname=\"sans-serif\", fontsize=10]\n")
	for _, n := range g.nodes {
		fmt.Fprintf(&b, "  %s [label=%s%s]\n", dotText(n.name), dotText(n.label), n.dot())
	}
	for _, e := range g.edges {
		fmt.Fprintf(&b, "  %s -> %s [label=%s%s]\n", dotText(g.nodes[e.from].name), dotText(g.nodes[e.to].name), dotText(e.lines...), e.dot())
	}
	b.WriteString("}\n")
	return b.String()
}

func (n node) dot() string {
	switch n.kind {
	case manyWorkloads:
		return `, style="rounded,dashed"`
	case revokedWorkload:
		return `, color=crimson, fontcolor=crimson`
	case unservedService:
		return `, shape=hexagon, style=dotted`
	default:
		return ""
	}
}

func (e edge) dot() string {
	attributes := ""
	if e.effect == policy.Deny {
		attributes += ", color=crimson, fontcolor=crimson, arrowhead=tee"
	}
	if e.shadow {
		attributes += ", style=dashed"
	}
	return attributes
}

// dotText writes lines as a quoted string. A backslash begins an escape in labels, such as \N for the name of the node.
func dotText(lines ...string) string {
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	escaped := make([]string, len(lines))
	for i, line := range lines {
		escaped[i] = escape.Replace(line)
	}
	return `"` + strings.Join(escaped, `\n`) + `"`
}

// commentText is the name of a policy's file, fit for a comment. In Mermaid %%{ begins a directive, and a line ends a comment in both.
func commentText(p *policy.Policy) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || strings.ContainsRune("{}", r) {
			return '_'
		}
		return r
	}, filepath.Base(p.Name()))
}
