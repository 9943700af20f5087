package site

import (
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/countersign-mesh/countersign/pkg/settings"
)

// edge reads where customers come in. Each of its fields is needed: who has one of the doors needs the others.
func (r *reader) edge(n *yaml.Node) {
	e := &r.site.Edge
	address := func(to *string) func(*yaml.Node) {
		return r.text(func(text string) error {
			*to = text
			return checkAddress(text)
		})
	}
	known := map[string]func(*yaml.Node){
		"grpc": address(&e.GRPC), "rest": address(&e.REST), "login": address(&e.Login),
		"issuer": r.text(func(text string) error {
			e.Issuer = text
			return (*settings.Issuer)(&text).Check()
		}),
		"root": r.text(func(text string) error {
			e.Root = r.beside(text)
			return nil
		}),
	}
	names := slices.Sorted(maps.Keys(known))
	keys := r.mapping(n, "edge")
	for _, key := range keys {
		field, ok := known[key.name.Value]
		if !ok {
			r.fail(key.name, "unknown field %q; edge has %s", key.name.Value, strings.Join(names, ", "))
			continue
		}
		field(key.value)
	}
	for _, name := range names {
		if n.Kind == yaml.MappingNode && !slices.ContainsFunc(keys, func(k entry) bool { return k.name.Value == name }) {
			r.fail(n, "edge: %s is missing", name)
		}
	}
}
