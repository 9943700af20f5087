// Package contracts knows the gRPC services that policies are about: those that are in this program, and those of a descriptor file.
package contracts

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// Linked are the contracts that this program has in it.
func Linked() []protoreflect.FileDescriptor { return append(bank(), standard()...) }

// bank are those of the bank within the mesh. What its customers see, at the edge, is no policy's to decide.
func bank() []protoreflect.FileDescriptor {
	return []protoreflect.FileDescriptor{
		accountsv1.File_bank_accounts_v1_accounts_proto,
		ledgerv1.File_bank_ledger_v1_ledger_proto,
		loginv1.File_bank_login_v1_login_proto,
		paymentsv1.File_bank_payments_v1_payments_proto,
		riskv1.File_bank_risk_v1_risk_proto,
		auditv1.File_mesh_audit_v1_audit_proto,
	}
}

// standard are those of every server of a mesh.
func standard() []protoreflect.FileDescriptor {
	return []protoreflect.FileDescriptor{
		adminv1.File_mesh_admin_v1_admin_proto,
		grpc_health_v1.File_grpc_health_v1_health_proto,
		grpc_reflection_v1.File_grpc_reflection_v1_reflection_proto,
	}
}

// Set is the contracts of the services that a policy is to cover. It is immutable and safe for concurrent use. It is a policy.Descriptors.
type Set struct {
	services map[protoreflect.FullName]protoreflect.ServiceDescriptor
	// required are those that the policy must have rules for.
	required []string
	find     func(protoreflect.FullName) (protoreflect.Descriptor, error)
}

// Bank returns the contracts of the bank and of every server.
func Bank() *Set {
	return newSet(Linked(), nil, protoregistry.GlobalFiles.FindDescriptorByName)
}

// Read returns the contracts in a file with a google.protobuf.FileDescriptorSet that has its imports in it, as `buf build -o` and
// `protoc --include_imports -o` write it, and those of every server. A policy may also have rules for the audit service.
func Read(path string) (*Set, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the descriptors: %w", err)
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("%s: no google.protobuf.FileDescriptorSet, as buf build -o %s writes it: %w", path, path, err)
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		return nil, fmt.Errorf("%s: %w (were the imports left out? buf build includes them, protoc with --include_imports)", path, err)
	}
	all := standard()
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		all = append(all, file)
		return true
	})
	optional := []protoreflect.FileDescriptor{auditv1.File_mesh_audit_v1_audit_proto}
	return newSet(all, optional, func(name protoreflect.FullName) (protoreflect.Descriptor, error) {
		if found, err := files.FindDescriptorByName(name); err == nil {
			return found, nil
		}
		return protoregistry.GlobalFiles.FindDescriptorByName(name)
	}), nil
}

func newSet(required, optional []protoreflect.FileDescriptor, find func(protoreflect.FullName) (protoreflect.Descriptor, error)) *Set {
	s := &Set{services: make(map[protoreflect.FullName]protoreflect.ServiceDescriptor), find: find}
	for i, file := range append(slices.Clone(required), optional...) {
		for j := range file.Services().Len() {
			service := file.Services().Get(j)
			if _, ok := s.services[service.FullName()]; !ok && i < len(required) {
				s.required = append(s.required, string(service.FullName()))
			}
			s.services[service.FullName()] = service
		}
	}
	slices.Sort(s.required)
	return s
}

// FindDescriptorByName implements policy.Descriptors.
func (s *Set) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	if service, ok := s.services[name]; ok {
		return service, nil
	}
	return s.find(name)
}

// Required returns the full names of the services that a policy must have rules for, in order.
func (s *Set) Required() []string { return slices.Clone(s.required) }

// Methods returns the names of a service's methods, and false for a service that is not known.
func (s *Set) Methods(service string) ([]string, bool) {
	found, ok := s.services[protoreflect.FullName(service)]
	if !ok {
		return nil, false
	}
	var names []string
	for i := range found.Methods().Len() {
		names = append(names, string(found.Methods().Get(i).Name()))
	}
	return names, true
}

// Method returns the descriptor of a method, "package.Service/Method" with or without a slash before it.
func (s *Set) Method(full string) (protoreflect.MethodDescriptor, error) {
	service, name, _ := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	found, ok := s.services[protoreflect.FullName(service)]
	if !ok {
		return nil, fmt.Errorf("the service %s is not known here; say where its contract is with --descriptors", service)
	}
	method := found.Methods().ByName(protoreflect.Name(name))
	if method == nil {
		names, _ := s.Methods(service)
		return nil, fmt.Errorf("%s has no method %q; it has %s", service, name, strings.Join(names, ", "))
	}
	return method, nil
}
