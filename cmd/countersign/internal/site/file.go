package site

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"go.yaml.in/yaml/v3"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
)

// Read reads a mesh file. Everything that is wrong with it is reported at once, each with its line. What is a path in it starts where the
// file is.
func Read(path string) (Site, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Site{}, fmt.Errorf("read the mesh file: %w", err)
	}
	s, err := parse(path, text)
	if err != nil {
		return Site{}, fmt.Errorf("read the mesh file: %w", err)
	}
	return s, nil
}

// parse walks the nodes instead of decoding into a struct: a decoder stops at the first value that is wrong in itself, and where a value
// stands is gone once it is read.
func parse(path string, text []byte) (Site, error) {
	r := &reader{path: path, site: Site{Name: "the mesh of " + path}}
	root, err := r.document(text)
	if err != nil {
		return Site{}, err
	}
	keys := r.mapping(root, "the mesh file")
	known := r.fields()
	for _, key := range keys {
		field, ok := known[key.name.Value]
		if !ok {
			r.fail(key.name, "unknown field %q; a mesh file has %s", key.name.Value, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
			continue
		}
		field(key.value)
	}
	for _, required := range []string{"trust_domain", "services"} {
		if !slices.ContainsFunc(keys, func(k entry) bool { return k.name.Value == required }) {
			r.fail(root, "%s is missing", required)
		}
	}
	r.identify()
	return r.site, errors.Join(r.errs...)
}

// reader makes a Site of a file and keeps every error that it comes upon.
type reader struct {
	path string
	site Site
	errs []error
	// names are the nodes that name the services, in their order.
	names []*yaml.Node
}

// entry is a key of a mapping and what stands there.
type entry struct{ name, value *yaml.Node }

func (r *reader) fail(n *yaml.Node, format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf("%s:%d: %w", r.path, n.Line, fmt.Errorf(format, args...)))
}

// document returns the root of the one document in text.
func (r *reader) document(text []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document, next yaml.Node
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%s:1: the file is empty; it needs trust_domain and services", r.path)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", r.path, err) // which names the line
	}
	if err := decoder.Decode(&next); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: there is more than one YAML document in the file; right would be one", r.path)
	}
	return document.Content[0], nil
}

// mapping returns the keys of a mapping with their values, in the order of the file.
func (r *reader) mapping(n *yaml.Node, what string) []entry {
	if n.Kind != yaml.MappingNode {
		r.fail(n, "%s must be a mapping, \"key: value\"", what)
		return nil
	}
	var list []entry
	lines := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if line, twice := lines[key.Value]; twice {
			r.fail(key, "%q stands already in line %d", key.Value, line)
			continue
		}
		lines[key.Value] = key.Line
		list = append(list, entry{key, n.Content[i+1]})
	}
	return list
}

// fields says how each field is read.
func (r *reader) fields() map[string]func(*yaml.Node) {
	return map[string]func(*yaml.Node){
		"trust_domain": r.text(func(text string) (err error) {
			r.site.TrustDomain, err = spiffeid.TrustDomainFromString(text)
			return err
		}),
		"workload_api": r.text(func(text string) error {
			r.site.WorkloadAPI = text
			return workloadapi.ValidateAddress(text)
		}),
		"policy": r.text(func(text string) error {
			r.site.Policy = r.beside(text)
			return nil
		}),
		"svid_ttl": r.text(func(text string) (err error) {
			if r.site.SVIDTTL, err = time.ParseDuration(text); err == nil && r.site.SVIDTTL <= 0 {
				err = errors.New("it is not above zero")
			}
			if err != nil {
				return fmt.Errorf("%q is not how long an SVID lives: %w; right would be 2m", text, err)
			}
			return nil
		}),
		"actors": r.text(func(text string) error {
			r.site.ActorSockets = r.beside(text)
			return nil
		}),
		"services": r.services,
		"edge":     r.edge,
	}
}

// text reads a value that is one text.
func (r *reader) text(take func(string) error) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind != yaml.ScalarNode || n.Value == "" || n.Tag == "!!null" {
			r.fail(n, "there is no text here")
			return
		}
		if err := take(n.Value); err != nil {
			r.fail(n, "%w", err)
		}
	}
}

// beside is a path as the file means it.
func (r *reader) beside(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(r.path), path)
}

func (r *reader) services(n *yaml.Node) {
	list := r.mapping(n, "services")
	if n.Kind == yaml.MappingNode && len(list) == 0 {
		r.fail(n, "there is no service; right would be ledger: ledger:8443")
	}
	for _, service := range list {
		r.text(func(address string) error {
			r.site.Services = append(r.site.Services, Service{Name: service.name.Value, Target: dial.Target{Address: address}})
			r.names = append(r.names, service.name)
			return checkAddress(address)
		})(service.value)
	}
}

// identify gives the services their SPIFFE IDs, once the trust domain is known wherever it stands.
func (r *reader) identify() {
	if r.site.TrustDomain.IsZero() {
		return // which is an error of its own
	}
	for i, name := range r.names {
		id, err := r.site.ID(name.Value)
		if err != nil {
			r.fail(name, "%q is not the path of a SPIFFE ID: %w; right would be ledger", name.Value, err)
		}
		r.site.Services[i].ID = id
	}
}

func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err == nil && host == "" {
		err = errors.New("it has no host")
	}
	if err == nil {
		var number int
		if number, err = strconv.Atoi(port); err == nil && (number < 1 || number > 65535) {
			err = errors.New("the port is not from 1 to 65535")
		}
	}
	if err != nil {
		return fmt.Errorf("%q is not HOST:PORT: %w; right would be ledger:8443", address, err)
	}
	return nil
}
