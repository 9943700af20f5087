package rules

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/countersign-mesh/countersign/services/risk/internal/risk"
)

// reader walks through a YAML document and keeps every error that it comes upon.
//
// It walks the nodes instead of decoding into structs: a decoder with KnownFields checks no field below a type that decodes
// itself, and the position of a value is gone once it is a number.
type reader struct {
	path  string
	errs  []positioned
	codes map[risk.Code]use
}

// positioned is an error and where it is.
type positioned struct {
	line, column int
	err          error
}

// field says how to read a field of a mapping.
type field struct {
	required bool
	read     func(*yaml.Node)
}

// option is one of the texts that a value may be.
type option[T any] struct {
	text  string
	value T
}

func (r *reader) fail(n *yaml.Node, format string, args ...any) {
	err := fmt.Errorf("%s:%d:%d: %w", r.path, n.Line, n.Column, fmt.Errorf(format, args...))
	r.errs = append(r.errs, positioned{n.Line, n.Column, err})
}

// sorted returns the errors in the order of the file.
func (r *reader) sorted() []error {
	slices.SortStableFunc(r.errs, func(a, b positioned) int {
		return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.column, b.column))
	})
	errs := make([]error, len(r.errs))
	for i, e := range r.errs {
		errs[i] = e.err
	}
	return errs
}

// document returns the root of the one document in text.
func (r *reader) document(text []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var doc, next yaml.Node
	switch err := decoder.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%s:1:1: the file is empty; it needs amount_ceilings, velocity and blocked_payees", r.path)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", r.path, err) // the YAML error names the line
	}
	if err := decoder.Decode(&next); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: more than one YAML document in the file; it has one", r.path)
	}
	return doc.Content[0], nil
}

// mapping returns the keys and values of a mapping.
func (r *reader) mapping(n *yaml.Node, what string) iter.Seq2[*yaml.Node, *yaml.Node] {
	return func(yield func(key, value *yaml.Node) bool) {
		if n.Kind != yaml.MappingNode {
			r.fail(n, "%s must be a mapping, \"key: value\"", what)
			return
		}
		first := make(map[string]*yaml.Node)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			if before, twice := first[key.Value]; twice {
				r.fail(key, "%q is here for the second time; the first is in line %d", key.Value, before.Line)
				continue
			}
			first[key.Value] = key
			if !yield(key, value) {
				return
			}
		}
	}
}

// fields reads a mapping whose keys are known.
func (r *reader) fields(n *yaml.Node, what string, fields map[string]field) {
	missing := maps.Clone(fields)
	for key, value := range r.mapping(n, what) {
		f, known := fields[key.Value]
		if !known {
			r.fail(key, "unknown field %q; %s has %s", key.Value, what, strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
			continue
		}
		delete(missing, key.Value)
		f.read(value)
	}
	if n.Kind != yaml.MappingNode {
		return // that was the error
	}
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		if missing[name].required {
			r.fail(n, "%s lacks the field %q", what, name)
		}
	}
}

// sequence returns the items of a sequence.
func (r *reader) sequence(n *yaml.Node, what string) []*yaml.Node {
	if n.Kind != yaml.SequenceNode {
		r.fail(n, "%s must be a list, \"- …\" or []", what)
		return nil
	}
	return n.Content
}

// scalar returns the text of a value that is no mapping, list or alias.
func (r *reader) scalar(n *yaml.Node) (string, bool) {
	if n.Kind != yaml.ScalarNode {
		r.fail(n, "must be a single value")
		return "", false
	}
	return n.Value, true
}

func (r *reader) match(n *yaml.Node, pattern *regexp.Regexp, want string) string {
	text, ok := r.scalar(n)
	if ok && !pattern.MatchString(text) {
		r.fail(n, "%q is not %s", text, want)
	}
	return text
}

func (r *reader) currency(n *yaml.Node) string {
	return r.match(n, regexp.MustCompile(`^[A-Z]{3}$`), "a currency code of ISO 4217, such as EUR")
}

// integer reads a whole number. One with a decimal point is refused and not rounded: amounts are in minor units.
func (r *reader) integer(n *yaml.Node, low, high int64) int64 {
	text, ok := r.scalar(n)
	if !ok {
		return 0
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil || v < low || v > high {
		r.fail(n, "%q is not a whole number from %d to %d (amounts are in minor units: 5,000.00 EUR is 500000)", text, low, high)
	}
	return v
}

func (r *reader) duration(n *yaml.Node, low, high time.Duration) time.Duration {
	text, ok := r.scalar(n)
	if !ok {
		return 0
	}
	v, err := time.ParseDuration(text)
	if err != nil || v < low || v > high {
		r.fail(n, "%q is not a duration from %v to %v, such as 1m or 24h", text, low, high)
	}
	return v
}

func choose[T any](r *reader, n *yaml.Node, options ...option[T]) (v T) {
	text, ok := r.scalar(n)
	if !ok {
		return v
	}
	var texts []string
	for _, o := range options {
		if o.text == text {
			return o.value
		}
		texts = append(texts, o.text)
	}
	r.fail(n, "%q is not %s", text, strings.Join(texts, " or "))
	return v
}
