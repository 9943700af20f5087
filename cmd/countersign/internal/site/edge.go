package site

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
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
			return CheckIssuer(text)
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

// CheckIssuer says what is wrong with the URL of an authorization server.
func CheckIssuer(text string) error {
	u, err := url.Parse(text)
	if err == nil && (u.Scheme != "https" || u.Host == "" || "https://"+u.Host != text) {
		err = errors.New("it is not https:// and a host, and nothing after that")
	}
	if err != nil {
		return fmt.Errorf("%q is no URL of an authorization server: %w; right would be https://login.bank.test:8445", text, err)
	}
	return nil
}
