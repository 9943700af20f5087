package policyview

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gonum.org/v1/gonum/graph/formats/dot"
	"pgregory.net/rapid"

	"github.com/countersign-mesh/countersign/pkg/policy"
)

// everyEdge is a policy with each kind of node and edge.
const everyEdge = `trust_domain: bank.test
revoked: [{id: /r}]
services:
  a.v1.Books:
    served_by: [/books, /copies/**]
    methods:
      Read: {allow: [{peer: /a, when: 1 > 2}, {peer: /**}], deny: [{peer: spiffe://p.test/x}]}
      Write: {allow: [{peer: /a}, {peer: /a, when: 1 > 2}, {peer: /r, shadow: true}], deny: [{peer: /a, when: 1 > 2, shadow: true}]}
  b.v1.Books:
    methods:
      Read: {allow: [{peer: /a}]}
      _Do_: {allow: [{peer: /a}]}
`

func TestMermaid(t *testing.T) {
	t.Parallel()
	const want = `%% Who calls whom by p.yaml: arrows are rules that allow, crosses rules that deny, and dotted lines rules in shadow.
flowchart LR
  n0{{"b.v1.Books"}}:::unserved
  n1(["/#42;#42;"]):::many
  n2["/a"]
  n3["/books"]
  n4(["/copies/#42;#42;"]):::many
  n5["/r (revoked)"]:::revoked
  n6["spiffe://p.test/x"]
  n1 -->|"a.v1.Books: Read"| n3
  n1 -->|"a.v1.Books: Read"| n4
  n2 -->|"b.v1.Books: all 2 methods"| n0
  n2 -->|"a.v1.Books: Read (under a condition), Write"| n3
  n2 -.-x|"a.v1.Books: Write (under a condition)"| n3
  n2 -->|"a.v1.Books: Read (under a condition), Write"| n4
  n2 -.-x|"a.v1.Books: Write (under a condition)"| n4
  n5 -.->|"a.v1.Books: Write"| n3
  n5 -.->|"a.v1.Books: Write"| n4
  n6 --x|"a.v1.Books: Read"| n3
  n6 --x|"a.v1.Books: Read"| n4
  classDef many stroke-dasharray:4 4
  classDef revoked stroke:crimson,color:crimson
  classDef unserved stroke-dasharray:1 3
  linkStyle 4,6,9,10 stroke:crimson
`
	if diff := cmp.Diff(want, Mermaid(mustParse(t, everyEdge))); diff != "" {
		t.Errorf("the graph differs (-want +got):\n%s", diff)
	}
}

// Who may only watch which servers are to be called calls none by that: the rules for it are for all servers.
func TestAGraphIsOfCallsAndNotOfWatchesOfHealth(t *testing.T) {
	t.Parallel()
	graph := Mermaid(mustParse(t, `trust_domain: bank.test
services:
  grpc.health.v1.Health:
    served_by: [/books]
    methods:
      Check: {allow: [{peer: /operator}]}
      Watch: {allow: [{peer: /operator}, {peer: /watcher}], deny: [{peer: /barred}]}
`))
	for arrow, want := range map[string]bool{`"Health: all 2 methods"`: true, `-->|"Health: Watch"|`: false, `--x|"Health: Watch"|`: true} {
		if strings.Contains(graph, arrow) != want {
			t.Errorf("%s: want %t, in\n%s", arrow, want, graph)
		}
	}
}

func TestDOT(t *testing.T) {
	t.Parallel()
	const want = `// Who calls whom by p.yaml: arrows are rules that allow, bars rules that deny, and dashed lines rules in shadow.
digraph policy {
  rankdir=LR
  node [shape=box, fontname="sans-serif"]
  edge [fontname="sans-serif", fontsize=10]
  "b.v1.Books" [label="b.v1.Books", shape=hexagon, style=dotted]
  "spiffe://bank.test/**" [label="/**", style="rounded,dashed"]
  "spiffe://bank.test/a" [label="/a"]
  "spiffe://bank.test/books" [label="/books"]
  "spiffe://bank.test/copies/**" [label="/copies/**", style="rounded,dashed"]
  "spiffe://bank.test/r" [label="/r (revoked)", color=crimson, fontcolor=crimson]
  "spiffe://p.test/x" [label="spiffe://p.test/x"]
  "spiffe://bank.test/**" -> "spiffe://bank.test/books" [label="a.v1.Books: Read"]
  "spiffe://bank.test/**" -> "spiffe://bank.test/copies/**" [label="a.v1.Books: Read"]
  "spiffe://bank.test/a" -> "b.v1.Books" [label="b.v1.Books: all 2 methods"]
  "spiffe://bank.test/a" -> "spiffe://bank.test/books" [label="a.v1.Books: Read (under a condition), Write"]
  "spiffe://bank.test/a" -> "spiffe://bank.test/books" [label="a.v1.Books: Write (under a condition)", color=crimson, fontcolor=crimson, arrowhead=tee, style=dashed]
  "spiffe://bank.test/a" -> "spiffe://bank.test/copies/**" [label="a.v1.Books: Read (under a condition), Write"]
  "spiffe://bank.test/a" -> "spiffe://bank.test/copies/**" [label="a.v1.Books: Write (under a condition)", color=crimson, fontcolor=crimson, arrowhead=tee, style=dashed]
  "spiffe://bank.test/r" -> "spiffe://bank.test/books" [label="a.v1.Books: Write", style=dashed]
  "spiffe://bank.test/r" -> "spiffe://bank.test/copies/**" [label="a.v1.Books: Write", style=dashed]
  "spiffe://p.test/x" -> "spiffe://bank.test/books" [label="a.v1.Books: Read", color=crimson, fontcolor=crimson, arrowhead=tee]
  "spiffe://p.test/x" -> "spiffe://bank.test/copies/**" [label="a.v1.Books: Read", color=crimson, fontcolor=crimson, arrowhead=tee]
}
`
	if diff := cmp.Diff(want, DOT(mustParse(t, everyEdge))); diff != "" {
		t.Errorf("the graph differs (-want +got):\n%s", diff)
	}
}

// What both languages would read as their own is text.
func TestGraphsQuoteWhatTheyShow(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct{ mermaid, dot string }{
		`/payments/**`:   {`/payments/#42;#42;`, `"/payments/**"`},
		`/_a_`:           {`/#95;a#95;`, `"/_a_"`},
		`"x"`:            {`#quot;x#quot;`, `"\"x\""`},
		`a\N`:            {`a\N`, `"a\\N"`},
		`#1;`:            {`#35;1;`, `"#1;"`},
		`<b>&lt;`:        {`#lt;b#gt;#amp;lt;`, `"<b>&lt;"`},
		"`a`":            {`#96;a#96;`, "\"`a`\""},
		`//www.bank.net`: {`//www#46;bank.net`, `"//www.bank.net"`},
	} {
		if got := mermaidText(text); got != `"`+want.mermaid+`"` {
			t.Errorf("Mermaid's text of %s is %s, want %s", text, got, want.mermaid)
		}
		if got := dotText(text); got != want.dot {
			t.Errorf("DOT's text of %s is %s, want %s", text, got, want.dot)
		}
	}
	if got := mermaidText("a", "b"); got != `"a<br/>b"` {
		t.Errorf("two lines of Mermaid are %s", got)
	}
	if got := dotText("a", "b"); got != `"a\nb"` {
		t.Errorf("two lines of DOT are %s", got)
	}
	p, err := policy.Parse("p%%{init}\n.yaml", []byte(everyEdge))
	if err != nil {
		t.Fatal(err)
	}
	for _, graph := range []string{Mermaid(p), DOT(p)} {
		if first, _, _ := strings.Cut(graph, "\n"); !strings.Contains(first, "p%%_init__.yaml:") {
			t.Errorf("the comment is %s", first)
		}
	}
}

// Each line of a flowchart has one of the forms of Mermaid's grammar, and each graph is always drawn alike.
func TestEachLineOfAFlowchartIsWellFormed(t *testing.T) {
	t.Parallel()
	const text = `"(?:[^"#]|#[a-z0-9]+;)+"`
	forms := regexp.MustCompile(`^(?:%% .*|flowchart LR|  n\d+(?:\[` + text + `\]|\(\[` + text + `\]\)|\{\{` + text + `\}\})(?::::[a-z]+)?` +
		`|  n\d+ (?:-->|--x|-\.->|-\.-x)\|` + text + `\| n\d+|  classDef [a-z]+ [a-z-]+:[a-z0-9 ]+(?:,[a-z-]+:[a-z0-9 ]+)*|  linkStyle \d+(?:,\d+)* stroke:[a-z]+)$`)
	rapid.Check(t, func(t *rapid.T) {
		p := somePolicy(t, "policy", true)
		graph := Mermaid(p)
		for line := range strings.Lines(graph) {
			if !forms.MatchString(strings.TrimSuffix(line, "\n")) {
				t.Errorf("this line is none of Mermaid's: %s", line)
			}
		}
		for range 10 {
			if Mermaid(p) != graph {
				t.Fatal("the same graph is drawn otherwise")
			}
		}
	})
}

// What is written for Graphviz is of its language, as a parser has it that is none of ours.
func TestDOTParses(t *testing.T) {
	t.Parallel()
	bank, err := os.ReadFile("../../../../deploy/policy/bank.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"the bank's policy": string(bank), "a policy with each kind of edge": everyEdge} {
		file, err := dot.ParseString(DOT(mustParse(t, text)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if len(file.Graphs) != 1 || len(file.Graphs[0].Stmts) < 3 {
			t.Errorf("%s: %v", name, file)
		}
	}
	if _, err := dot.ParseString(strings.Replace(DOT(mustParse(t, everyEdge)), `"`, "", 1)); err == nil {
		t.Error("the parser takes what lacks a quote")
	}
}
