package authz

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/yamlfile"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

// Parse compiles the text of a policy file (mesh.policy.v1.Policy in YAML). name is the file's name in errors and verdicts.
// All that is wrong is reported at once, each with line and column.
func Parse(name string, data []byte) (*Policy, error) {
	var file policyv1.Policy
	document, err := yamlfile.Unmarshal(name, data, &file)
	if err != nil {
		return nil, err
	}
	td, err := spiffeid.TrustDomainFromString(file.GetTrustDomain())
	if err != nil {
		return nil, document.At("trust_domain").Errorf("trust_domain %q: %w", file.GetTrustDomain(), err)
	}
	p := &Policy{
		name:        name,
		text:        string(data),
		version:     versionOf(data),
		trustDomain: td,
		methods:     make(map[string]*method),
		services:    make(map[string]map[string]*method),
		document:    document,
	}
	var errs []error
	for _, service := range slices.Sorted(maps.Keys(file.GetServices())) {
		errs = append(errs, p.addService(service, file.GetServices()[service]))
	}
	errs = append(errs, p.addRevocations(file.GetRevoked()))
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Policy) addService(name string, service *policyv1.Service) error {
	var errs []error
	p.services[name] = make(map[string]*method)
	for _, methodName := range slices.Sorted(maps.Keys(service.GetMethods())) {
		m, err := p.compile(service.GetMethods()[methodName], "services", name, "methods", methodName)
		errs = append(errs, err)
		p.services[name][methodName] = m
		p.methods["/"+name+"/"+methodName] = m
	}
	return errors.Join(errs...)
}

// compile compiles the rules of the method that stands at path.
func (p *Policy) compile(rules *policyv1.Method, path ...any) (*method, error) {
	m := &method{pos: p.document.At(path...), rules: make(map[spiffeid.ID]string)}
	var errs []error
	for i, rule := range rules.GetAllow() {
		pos := p.document.At(append(slices.Clone(path), "allow", i, "peer")...)
		id, err := p.parsePeer(rule.GetPeer())
		if err != nil {
			errs = append(errs, pos.Errorf("peer %q: %w", rule.GetPeer(), err))
			continue
		}
		if first, ok := m.rules[id]; ok {
			errs = append(errs, pos.Errorf("peer %q is allowed already at %s", rule.GetPeer(), first))
			continue
		}
		m.rules[id] = p.at(pos)
		m.peers = append(m.peers, id)
	}
	return m, errors.Join(errs...)
}

func (p *Policy) addRevocations(revoked []*policyv1.Revocation) error {
	var entries []identity.Revocation
	var errs []error
	for i, r := range revoked {
		entry := identity.Revocation{Entry: p.at(p.document.At("revoked", i))}
		var field string
		var err error
		switch subject := r.GetSubject().(type) {
		case *policyv1.Revocation_Id:
			field = "id"
			entry.ID, err = p.parsePeer(subject.Id)
		case *policyv1.Revocation_Serial:
			field = "serial"
			entry.Serial, err = identity.ParseSerial(subject.Serial)
		case *policyv1.Revocation_Authority:
			field = "authority"
			entry.Authority, err = identity.ParseAuthority(subject.Authority)
		}
		if err != nil {
			errs = append(errs, p.document.At("revoked", i, field).Errorf("%s: %w", field, err))
		}
		entries = append(entries, entry)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	var err error
	p.revoked, err = identity.NewRevocations(entries...)
	return err
}

// errNoPath is why a trust domain alone names no peer (X509-SVID §5.2: a leaf's ID has a path).
var errNoPath = errors.New("names a trust domain and no workload; add a path, such as /payments")

// parsePeer reads a peer as a rule writes it: a whole SPIFFE ID, or the path of one in the policy's trust domain.
func (p *Policy) parsePeer(text string) (spiffeid.ID, error) {
	if strings.HasPrefix(text, "/") {
		return spiffeid.FromPath(p.trustDomain, text)
	}
	id, err := spiffeid.FromString(text)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("no SPIFFE ID: %w", err)
	}
	if id.Path() == "" {
		return spiffeid.ID{}, errNoPath
	}
	return id, nil
}
