package policyfile

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

// field is the key that revocations stand under.
const field = "revoked"

// spot is where in a text an entry goes in, and in which form.
type spot struct {
	// offset is where, in bytes; index is which one of the list the entry will be.
	offset, index int
	// lead is what the entry needs before it: the end of the line before, the key.
	lead string
	// indent is what each line of the entry starts with.
	indent string
	// flow is set for a list in brackets; more says that it has other entries.
	flow, more bool
	eol        string
}

// locate finds the spot for another entry of a good policy file: behind the last one of a list that has lines of its own, before the
// first one of a list in brackets, and at the end of a file that has no list.
func locate(text string) (spot, error) {
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		return spot{}, err
	}
	root := document.Content[0]
	if root.Style&yaml.FlowStyle != 0 {
		return spot{}, errLost
	}
	l := newLines(text)
	margin := strings.Repeat(" ", root.Column-1)
	key, list := child(root)
	switch {
	case key == nil:
		return spot{
			offset: len(text), lead: l.endOfLine(len(text)) + l.eol + margin + field + ":" + l.eol,
			indent: margin + "  ", eol: l.eol,
		}, nil
	case list.Kind == yaml.SequenceNode && list.Style&yaml.FlowStyle != 0:
		offset := l.offset(list)
		if !strings.HasPrefix(text[offset:], "[") {
			return spot{}, errLost
		}
		return spot{offset: offset + 1, flow: true, more: len(list.Content) > 0, eol: l.eol}, nil
	case list.Kind == yaml.SequenceNode:
		offset := l.start(l.lastOf(root, key) + 1)
		return spot{
			offset: offset, index: len(list.Content), lead: l.endOfLine(offset),
			indent: strings.Repeat(" ", list.Column-1), eol: l.eol,
		}, nil
	default: // a good policy has nothing else here
		return spot{}, errLost
	}
}

// child returns the key of the revocations and their list; nil when there is none.
func child(root *yaml.Node) (key, list *yaml.Node) {
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value == field {
			return root.Content[i], root.Content[i+1]
		}
	}
	return nil, nil
}

// render writes an entry for the spot, without the lead.
func (s spot) render(entry *policyv1.Revocation) (string, error) {
	node := &yaml.Node{Kind: yaml.MappingNode}
	add := func(key, value string, style yaml.Style) {
		if value != "" {
			node.Content = append(node.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key},
				&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value, Style: style})
		}
	}
	add("id", entry.GetId(), 0)
	// In quotes, always: 123 and 1e5 are numbers to YAML.
	add("serial", entry.GetSerial(), yaml.DoubleQuotedStyle)
	add("authority", entry.GetAuthority(), yaml.DoubleQuotedStyle)
	add("why", entry.GetWhy(), 0)
	if s.flow {
		node.Style = yaml.FlowStyle
		text, err := encode(node)
		if s.more {
			text += ", "
		}
		return text, err
	}
	text, err := encode(&yaml.Node{Kind: yaml.SequenceNode, Content: []*yaml.Node{node}})
	var b strings.Builder
	for line := range strings.Lines(text + "\n") {
		b.WriteString(s.indent + strings.TrimSuffix(line, "\n") + s.eol)
	}
	return b.String(), err
}

func encode(node *yaml.Node) (string, error) {
	var b bytes.Buffer
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	if err := encoder.Encode(node); err != nil {
		return "", fmt.Errorf("write the entry: %w", err)
	}
	return strings.TrimSuffix(b.String(), "\n"), encoder.Close()
}

// lines is a text by its lines, which count from 1 as in YAML.
type lines struct {
	text   string
	starts []int
	eol    string
}

func newLines(text string) lines {
	l := lines{text: text, starts: []int{0}, eol: "\n"}
	if strings.Contains(text, "\r\n") {
		l.eol = "\r\n"
	}
	for i := range len(text) {
		if text[i] == '\n' {
			l.starts = append(l.starts, i+1)
		}
	}
	return l
}

// start returns where a line starts; the end of the text for one behind the last.
func (l lines) start(line int) int {
	if line > len(l.starts) {
		return len(l.text)
	}
	return l.starts[line-1]
}

// line returns a line without its end.
func (l lines) line(line int) string {
	return strings.TrimRight(l.text[l.start(line):l.start(line+1)], "\r\n")
}

// offset returns where a node starts. Columns count characters.
func (l lines) offset(node *yaml.Node) int {
	offset := l.start(node.Line)
	for range node.Column - 1 {
		_, size := utf8.DecodeRuneInString(l.text[offset:])
		offset += size
	}
	return offset
}

// endOfLine is what a text lacks before another line can start at offset.
func (l lines) endOfLine(offset int) string {
	if offset == 0 || strings.HasSuffix(l.text[:offset], "\n") {
		return ""
	}
	return l.eol
}

// lastOf returns the last line that belongs to a key of a mapping: the one before the next key, without the empty lines and the comments
// that stand before that. A comment that is indented deeper belongs to the list.
func (l lines) lastOf(root, key *yaml.Node) int {
	end := len(l.starts)
	for i := 0; i < len(root.Content); i += 2 {
		if line := root.Content[i].Line; line > key.Line && line <= end {
			end = line - 1
		}
	}
	for ; end > key.Line; end-- {
		text := strings.TrimLeft(l.line(end), " ")
		indent := len(l.line(end)) - len(text)
		if text != "" && (!strings.HasPrefix(text, "#") || indent >= root.Column) {
			break
		}
	}
	return end
}
