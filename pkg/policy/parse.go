package policy

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/yamlfile"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

// Descriptors finds the descriptor of a gRPC service, so that conditions over its requests can be checked and evaluated. A protoregistry.Files is
// one. What it does not find is a service of other processes: of its conditions the grammar alone is checked.
type Descriptors interface {
	FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error)
}

// Option changes a default of Parse, Load and Compile.
type Option func(*parser)

// WithDescriptors sets where the methods' messages are found; by default among those that are linked into the process, as every service that it
// serves or calls by generated code is.
func WithDescriptors(d Descriptors) Option { return func(p *parser) { p.descriptors = d } }

// Parse compiles the text of a policy file that includes no other. name is the file's name in errors and verdicts. All that is wrong is reported
// at once, each with line and column.
func Parse(name string, text []byte, opts ...Option) (*Policy, error) {
	return Compile(Text(name, text), opts...)
}

// Load reads and compiles the policy file at path, with what it includes.
func Load(path string, opts ...Option) (*Policy, error) {
	source, err := Read(path)
	if err != nil {
		return nil, err
	}
	return Compile(source, opts...)
}

// Compile compiles a policy. All that is wrong is reported at once, each with file, line and column.
func Compile(source Source, opts ...Option) (*Policy, error) {
	p := &parser{
		descriptors: protoregistry.GlobalFiles,
		conditions:  newCompiler(),
		policy: &Policy{
			source:   source,
			version:  source.version(),
			methods:  make(map[string]*Method),
			services: make(map[string]*Service),
			plain:    make(map[plainCall]*Rule),
		},
	}
	for _, opt := range opts {
		opt(p)
	}
	if err := p.main(source.files[0]); err != nil {
		return nil, err
	}
	return p.policy, nil
}

// parser makes a Policy of its files.
type parser struct {
	descriptors Descriptors
	conditions  *compiler
	policy      *Policy
}

// part is one file of a policy.
type part struct {
	*policyv1.Policy
	*yamlfile.Document
	// owns are the services that it may have rules for; nil for all.
	owns []string
}

func (p *parser) main(file sourceFile) error {
	main, err := p.read(file)
	if err != nil {
		return err
	}
	td, err := spiffeid.TrustDomainFromString(main.GetTrustDomain())
	if err != nil {
		return main.At("trust_domain").Errorf("trust_domain %q: %w", main.GetTrustDomain(), err)
	}
	p.policy.trustDomain = td
	errs := []error{p.add(main)}
	if len(main.GetServices())+len(main.GetInclude()) == 0 {
		errs = append(errs, main.At().Errorf("the file has neither services nor include; it would deny everything"))
	}
	for i, include := range main.GetInclude() {
		errs = append(errs, p.include(main, i, include))
	}
	errs = append(errs, p.addRevocations(main))
	return errors.Join(errs...)
}

func (p *parser) read(file sourceFile) (part, error) {
	message := &policyv1.Policy{}
	document, err := yamlfile.Unmarshal(file.Name, file.Text, message)
	if err != nil {
		return part{}, err
	}
	p.policy.documents = append(p.policy.documents, document)
	return part{Policy: message, Document: document}, nil
}

// include adds the rules of an included file.
func (p *parser) include(main part, i int, include *policyv1.Include) error {
	at := main.At("include", i, "file")
	if !filepath.IsLocal(include.GetFile()) {
		return at.Errorf("%q does not lie in the directory of this file or below; write its path relative to that", include.GetFile())
	}
	name := filepath.Join(filepath.Dir(p.policy.Name()), include.GetFile())
	file, ok := p.policy.source.find(name)
	if !ok {
		return at.Errorf("%q: a policy that is not read from a file includes no other", include.GetFile())
	}
	if file.err != nil {
		return at.Errorf("%w", file.err)
	}
	included, err := p.read(file)
	if err != nil {
		return err
	}
	included.owns = include.GetServices()
	return errors.Join(included.onlyRules(main.GetTrustDomain()), p.add(included))
}

// onlyRules reports what an included file must not have: that is for the main file to say.
func (f part) onlyRules(trustDomain string) error {
	var errs []error
	if f.GetTrustDomain() != trustDomain {
		errs = append(errs, f.At("trust_domain").Errorf("trust_domain %q is not that of the file that includes this one, %q", f.GetTrustDomain(), trustDomain))
	}
	if len(f.GetRevoked()) > 0 {
		errs = append(errs, f.At("revoked").Errorf("revocations stand in the main file, not in an included one"))
	}
	if len(f.GetInclude()) > 0 {
		errs = append(errs, f.At("include").Errorf("an included file includes no other; the main file does"))
	}
	return errors.Join(errs...)
}

// add adds the services of a file.
func (p *parser) add(f part) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(f.GetServices())) {
		at := f.At("services", name)
		if f.owns != nil && !slices.Contains(f.owns, name) {
			errs = append(errs, at.Errorf("the file that includes this one lets it have no rules for %s; it would have to stand there under services", name))
			continue
		}
		if first, ok := p.policy.services[name]; ok {
			errs = append(errs, at.Errorf("%s has its rules already at %s", name, place(first.Position)))
			continue
		}
		errs = append(errs, p.addService(f, name))
	}
	return errors.Join(errs...)
}

func (p *parser) addService(f part, name string) error {
	var errs []error
	definition := f.GetServices()[name]
	service := &Service{Name: name, Position: f.At("services", name)}
	for i, text := range definition.GetServedBy() {
		pattern, err := ParsePattern(p.policy.trustDomain, text)
		if err != nil {
			errs = append(errs, f.At("services", name, "served_by", i).Errorf("served_by %q: %w", text, err))
		}
		service.ServedBy = append(service.ServedBy, pattern)
	}
	described := p.describe(name)
	for _, methodName := range slices.Sorted(maps.Keys(definition.GetMethods())) {
		m := &Method{Full: "/" + name + "/" + methodName, Name: methodName, Position: f.At("services", name, "methods", methodName)}
		if described != nil {
			if method := described.Methods().ByName(protoreflect.Name(methodName)); method != nil {
				m.input = method.Input()
			}
		}
		errs = append(errs, p.addRules(f, m, definition.GetMethods()[methodName], "services", name, "methods", methodName))
		m.index()
		p.policy.indexPlain(m)
		service.Methods = append(service.Methods, m)
		p.policy.methods[m.Full] = m
	}
	p.policy.services[name] = service
	return errors.Join(errs...)
}

// describe returns the descriptor of a service; nil when it is not known here.
func (p *parser) describe(name string) protoreflect.ServiceDescriptor {
	found, err := p.descriptors.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return nil
	}
	service, _ := found.(protoreflect.ServiceDescriptor)
	return service
}

func (p *parser) addRevocations(main part) error {
	var entries []identity.Revocation
	var errs []error
	for i, r := range main.GetRevoked() {
		entry := identity.Revocation{Entry: place(main.At("revoked", i))}
		var field string
		var err error
		switch subject := r.GetSubject().(type) {
		case *policyv1.Revocation_Id:
			field = "id"
			entry.ID, err = p.parseID(subject.Id)
		case *policyv1.Revocation_Serial:
			field = "serial"
			entry.Serial, err = identity.ParseSerial(subject.Serial)
		case *policyv1.Revocation_Authority:
			field = "authority"
			entry.Authority, err = identity.ParseAuthority(subject.Authority)
		}
		if err != nil {
			errs = append(errs, main.At("revoked", i, field).Errorf("%s: %w", field, err))
		}
		entries = append(entries, entry)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	var err error
	p.policy.revoked, err = identity.NewRevocations(entries...)
	return err
}

// parseID reads the ID of one workload.
func (p *parser) parseID(text string) (spiffeid.ID, error) {
	pattern, err := ParsePattern(p.policy.trustDomain, text)
	if err != nil {
		return spiffeid.ID{}, err
	}
	id, ok := pattern.ID()
	if !ok {
		return spiffeid.ID{}, fmt.Errorf("it means many workloads; a revocation names one")
	}
	return id, nil
}
