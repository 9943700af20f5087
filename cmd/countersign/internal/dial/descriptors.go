package dial

import (
	"fmt"

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
