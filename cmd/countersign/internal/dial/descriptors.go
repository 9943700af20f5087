package dial

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fullstorydev/grpcurl"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/contracts"
)

// linkedSource is the linked contracts with all that it imports.
func linkedSource() (grpcurl.DescriptorSource, error) {
	set, seen := &descriptorpb.FileDescriptorSet{}, make(map[string]bool)
	var add func(protoreflect.FileDescriptor)
	add = func(file protoreflect.FileDescriptor) {
		if seen[file.Path()] {
			return
		}
		seen[file.Path()] = true
		for i := range file.Imports().Len() {
			add(file.Imports().Get(i).FileDescriptor)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(file))
	}
	for _, file := range contracts.Linked() {
		add(file)
	}
	source, err := grpcurl.DescriptorSourceFromFileDescriptorSet(set)
	if err != nil {
		return nil, fmt.Errorf("read the contracts in this binary: %w", err)
	}
	return source, nil
}

// methodName turns what a person wrote into "package.Service/Method". A method's name alone is enough where only one service that
// this binary knows has it.
func methodName(written string) (string, error) {
	name := strings.TrimPrefix(written, "/")
	if service, method, ok := strings.Cut(name, "/"); ok {
		if service == "" || method == "" || strings.Contains(method, "/") {
			return "", fmt.Errorf("%q is no method; right would be bank.ledger.v1.LedgerService/GetBalance", written)
		}
		return name, nil
	}
	if i := strings.LastIndex(name, "."); i > 0 && i < len(name)-1 {
		return name[:i] + "/" + name[i+1:], nil
	}
	var found []string
	for _, file := range contracts.Linked() {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			if service.Methods().ByName(protoreflect.Name(name)) != nil {
				found = append(found, string(service.FullName())+"/"+name)
			}
		}
	}
	slices.Sort(found)
	switch len(found) {
	case 0:
		return "", fmt.Errorf("no service that this program knows has a method %q; write it whole, such as bank.ledger.v1.LedgerService/GetBalance", written)
	case 1:
		return found[0], nil
	default:
		return "", fmt.Errorf("%q could be %s; write it whole", written, strings.Join(found, " or "))
	}
}
