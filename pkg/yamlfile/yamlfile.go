// Package yamlfile reads a protobuf message from a YAML file, strictly: one document, no key twice, no unknown field, every
// protovalidate rule of the message held. It remembers where each value stands, so that what is found wrong later can be
// reported with line and column too.
package yamlfile

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"buf.build/go/protovalidate"
	"buf.build/go/protoyaml"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
)

// Position is a place in a file. Line and Column count from 1.
type Position struct {
	File   string
	Line   int
	Column int
}

// String returns "file:line:column".
func (p Position) String() string { return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column) }

// Errorf returns an error that starts with the position.
func (p Position) Errorf(format string, args ...any) error {
	return fmt.Errorf("%s: %w", p, fmt.Errorf(format, args...))
}

// Document is the text that a message was read from. It is immutable and safe for concurrent use.
type Document struct {
	name  string
	root  *yaml.Node
	lines []string
}

// Unmarshal reads data into message. name is the file's name in errors. Everything that is wrong is reported at once, each
// with line and column; message must not be used then. A Document beside an error means that only rules of the message are broken: who
// looks for more that is wrong may look at the message too.
func Unmarshal(name string, data []byte, message proto.Message) (*Document, error) {
	root, err := parse(name, data)
	if err != nil {
		return nil, err
	}
	doc := &Document{name: name, root: root, lines: strings.Split(string(data), "\n")}
	if err := doc.checkMessage(root, message.ProtoReflect().Descriptor()); err != nil {
		return nil, err
	}
	broken := decode(name, data, message, rules{})
	if broken == nil {
		return doc, nil
	}
	if err := decode(name, data, message, nil); err != nil {
		return nil, trim(broken)
	}
	return doc, trim(broken)
}

// decode reads data into message. To report a mistake the decoder looks up the line that it stands in, and panics when that is the one after the
// last, as of a key that the file ends with. A file that is cut short must not end a process that watches it.
func decode(name string, data []byte, message proto.Message, validator protoyaml.Validator) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s: something is wrong in it that has no line, such as a key at its end without a value (%v)", name, p)
		}
	}()
	return protoyaml.UnmarshalOptions{Path: name, Validator: validator}.Unmarshal(data, message)
}

// rules applies a message's protovalidate rules.
type rules struct{}

func (rules) Validate(message proto.Message) error { return protovalidate.Validate(message) }

// parse returns the root node of the only document in data.
func parse(name string, data []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(strings.NewReader(string(data)))
	var first, second yaml.Node
	switch err := decoder.Decode(&first); {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%s: the file is empty", name)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	// A reader that stops at the first document would silently drop the rest of the file.
	switch err := decoder.Decode(&second); {
	case err == nil:
		return nil, fmt.Errorf("%s:%d:%d: a second document starts here; a file holds one", name, second.Line, second.Column)
	case !errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	root := first.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s:%d:%d: the file must hold a mapping", name, root.Line, root.Column)
	}
	return root, nil
}

// At returns where the value at a path stands: strings name keys, ints index lists. Where the path leaves the document it
// returns the last place on it.
func (d *Document) At(path ...any) Position {
	node := d.root
	place := node
	for _, step := range path {
		key, value := child(node, step)
		if value == nil {
			break
		}
		node, place = value, key
	}
	return d.position(place)
}

// Within returns a place within the text value at a path: its line, from 1, and the column in that, from 0, as parsers of such texts count. It is
// exact for text as it stands, plain or in a block that keeps its lines; in quotes with escapes, or folded, it is near.
func (d *Document) Within(line, column int, path ...any) Position {
	node := d.root
	for _, step := range path {
		_, value := child(node, step)
		if value == nil {
			return d.At(path...)
		}
		node = value
	}
	pos := d.position(node)
	switch node.Style &^ yaml.TaggedStyle {
	case yaml.LiteralStyle, yaml.FoldedStyle:
		pos.Column = d.indent(pos.Line+1) + column + 1
		pos.Line += line
	case yaml.SingleQuotedStyle, yaml.DoubleQuotedStyle:
		pos.Column += column + 1
	default:
		pos.Column += column
	}
	return pos
}

// indent returns how far the block that begins at a line is indented: its first line with text in it says that for all (YAML 1.2.2 §8.1.1.1).
func (d *Document) indent(line int) int {
	for _, text := range d.lines[min(line-1, len(d.lines)):] {
		if strings.TrimSpace(text) != "" {
			return len(text) - len(strings.TrimLeft(text, " "))
		}
	}
	return 0
}

// child returns the value at one step, and the node that a person would point at to name it: the key, or the list's item.
func child(node *yaml.Node, step any) (place, value *yaml.Node) {
	switch step := step.(type) {
	case string:
		for i := 0; node.Kind == yaml.MappingNode && i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == step {
				return node.Content[i], node.Content[i+1]
			}
		}
	case int:
		if node.Kind == yaml.SequenceNode && step < len(node.Content) {
			return node.Content[step], node.Content[step]
		}
	}
	return nil, nil
}

func (d *Document) position(node *yaml.Node) Position {
	return Position{File: d.name, Line: node.Line, Column: node.Column}
}

// trim ends each error without the blank line that protoyaml leaves after its snippet. They stay as many as they are.
func trim(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var errs []error
		for _, e := range joined.Unwrap() {
			errs = append(errs, trim(e))
		}
		return errors.Join(errs...)
	}
	return errors.New(strings.TrimRight(err.Error(), "\n"))
}
