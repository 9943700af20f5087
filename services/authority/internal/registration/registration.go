// Package registration says which process gets which identity: the registration file (mesh.registration.v1), checked, watched, and
// matched against what attestation knows of a process.
//
// The file may be shared with SPIRE. An entry whose selectors only SPIRE can attest is read and checked like any other, so that a mistake
// in it is found here too, and matches nobody here, since no process has such a selector.
package registration

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/yamlfile"
	registrationv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/registration/v1"
)

// Entry gives one identity to the processes that have all of its selectors. It is immutable.
type Entry struct {
	ID        spiffeid.ID
	Selectors []string
	DNSNames  []string
	// TTL is how long its SVIDs live; 0 for the authority's default.
	TTL  time.Duration
	Hint string
}

// Equal reports whether two entries give the same to the same processes.
func (e *Entry) Equal(other *Entry) bool {
	return e.ID == other.ID && e.TTL == other.TTL && e.Hint == other.Hint &&
		slices.Equal(e.Selectors, other.Selectors) && slices.Equal(e.DNSNames, other.DNSNames)
}

// Registry is the content of one registration file. It is immutable.
type Registry struct{ entries []*Entry }

// Len returns how many entries there are.
func (r *Registry) Len() int { return len(r.entries) }

// Sockets returns the names that selectors ask a socket for, each once, in alphabetical order.
func (r *Registry) Sockets() []string {
	var names []string
	for _, e := range r.entries {
		for _, s := range e.Selectors {
			if kind, name := split(s); kind == kindSocket {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Foreign returns how many entries are for others to attest: those with a selector of Docker's or Kubernetes' attestor in SPIRE. Nobody
// matches them here.
func (r *Registry) Foreign() int {
	n := 0
	for _, e := range r.entries {
		if slices.ContainsFunc(e.Selectors, foreign) {
			n++
		}
	}
	return n
}

// Match returns the entries whose selectors are all among those of a process, in the order of the file.
func (r *Registry) Match(selectors []string) []*Entry {
	has := make(map[string]bool, len(selectors))
	for _, s := range selectors {
		has[s] = true
	}
	var matched []*Entry
	for _, e := range r.entries {
		if !slices.ContainsFunc(e.Selectors, func(s string) bool { return !has[s] }) {
			matched = append(matched, e)
		}
	}
	return matched
}

// NeedsSum reports whether the sum of a process's executable can make a difference: an entry asks for one, and has all its other
// selectors among those that are known.
func (r *Registry) NeedsSum(selectors []string) bool {
	return slices.ContainsFunc(r.entries, func(e *Entry) bool {
		asks := false
		for _, s := range e.Selectors {
			if kind, _ := split(s); kind == kindSum {
				asks = true
			} else if !slices.Contains(selectors, s) {
				return false
			}
		}
		return asks
	})
}

// Parse reads the text of a registration file for one trust domain. name is the file's name in errors. All that is wrong is
// reported at once, each with line and column.
func Parse(name string, data []byte, td spiffeid.TrustDomain) (*Registry, error) {
	var file registrationv1.Registration
	document, err := yamlfile.Unmarshal(name, data, &file)
	if err != nil {
		return nil, err
	}
	p := parser{document: document, td: td}
	if file.GetTrustDomain() != td.Name() {
		p.wrong([]any{"trust_domain"}, "trust domain %q is not this authority's, %q", file.GetTrustDomain(), td.Name())
	}
	registry := &Registry{}
	for i, entry := range file.GetEntries() {
		registry.entries = append(registry.entries, p.entry(i, entry))
	}
	p.checkPairs(registry.entries)
	if err := errors.Join(p.errs...); err != nil {
		return nil, err
	}
	return registry, nil
}

// parser gathers what is wrong.
type parser struct {
	document *yamlfile.Document
	td       spiffeid.TrustDomain
	errs     []error
}

// wrong notes an error at a place of the document.
func (p *parser) wrong(at []any, format string, args ...any) {
	p.errs = append(p.errs, p.document.At(at...).Errorf(format, args...))
}

func (p *parser) entry(i int, entry *registrationv1.Entry) *Entry {
	id, err := p.parseID(entry.GetSpiffeId())
	if err != nil {
		p.wrong([]any{"entries", i, "spiffe_id"}, "spiffe_id %q: %w", entry.GetSpiffeId(), err)
	}
	p.checkSelectors(i, entry.GetSelectors())
	return &Entry{
		ID: id, Selectors: entry.GetSelectors(), DNSNames: entry.GetDnsNames(), Hint: entry.GetHint(),
		TTL: entry.GetSvidTtl().AsDuration(),
	}
}

// parseID reads a SPIFFE ID, whole or short for one of the trust domain.
func (p *parser) parseID(text string) (spiffeid.ID, error) {
	if strings.HasPrefix(text, "/") {
		return spiffeid.FromPath(p.td, text)
	}
	id, err := spiffeid.FromString(text)
	switch {
	case err != nil:
		return id, err
	case id.TrustDomain() != p.td:
		return id, fmt.Errorf("it is not in the trust domain %q", p.td.Name())
	case id.Path() == "":
		return id, errors.New("it names the trust domain and no workload; right would be a path, such as /ledger")
	}
	return id, nil
}

// checkPairs refuses entries that stand in each other's way.
func (p *parser) checkPairs(entries []*Entry) {
	for j, entry := range entries {
		for i, earlier := range entries[:j] {
			if entry.ID == earlier.ID && sameSet(entry.Selectors, earlier.Selectors) {
				p.wrong([]any{"entries", j}, "it gives the same identity to the same processes as the entry at %s", p.document.At("entries", i))
			}
			if entry.Hint != "" && entry.Hint == earlier.Hint && compatible(entry.Selectors, earlier.Selectors) {
				p.wrong([]any{"entries", j, "hint"}, "hint %q: a process can get it twice, from the entry at %s too", entry.Hint,
					p.document.At("entries", i))
			}
		}
	}
}

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}
