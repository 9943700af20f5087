package contracts

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Find turns what a person wrote into "package.Service/Method". A method's name alone is enough where only one service has it. What is
// written whole is taken as it is, known or not.
func (s *Set) Find(written string) (string, error) {
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
	for _, service := range s.services {
		if service.Methods().ByName(protoreflect.Name(name)) != nil {
			found = append(found, string(service.FullName())+"/"+name)
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

// Request makes the request of a method ("package.Service/Method") of its JSON. Where the message's Go type is in this program it is of that
// type, and else a dynamic one.
func (s *Set) Request(full string, json []byte) (proto.Message, error) {
	method, err := s.Method(full)
	if err != nil {
		return nil, err
	}
	message := newMessage(method.Input())
	if err := protojson.Unmarshal(json, message); err != nil {
		return nil, fmt.Errorf("no %s: %w", method.Input().FullName(), err)
	}
	return message, nil
}

// newMessage returns an empty message. Conditions are compiled for the descriptor at hand: a Go type of the same name that has another, since a
// file of descriptors is newer than this program, would lack fields.
func newMessage(descriptor protoreflect.MessageDescriptor) proto.Message {
	linked, err := protoregistry.GlobalTypes.FindMessageByName(descriptor.FullName())
	if err == nil && linked.Descriptor() == descriptor {
		return linked.New().Interface()
	}
	return dynamicpb.NewMessage(descriptor)
}
