package yamlfile

import (
	"errors"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// The decoder takes a field by its name, its JSON name and its number, and where a field or a key stands twice it lets the last
// one win, silently. In a policy that can turn a refusal into a permission while a reader looks at another line. So each
// field has one way to be written here, its name, and each key stands once.
//
// Aliases are refused too: where a rule comes from must be seen where it stands, and a few aliases of aliases make a small file
// huge.
//
// A google.protobuf.Struct, Value or ListValue has no fields of its own: what stands there has the keys that it likes. The rest holds for it too.

// checkMessage checks the keys of a mapping that holds a message, and of what stands below it.
func (d *Document) checkMessage(node *yaml.Node, message protoreflect.MessageDescriptor) error {
	if freeForm(message) {
		return d.checkFree(node)
	}
	if err := d.checkMapping(node); err != nil || node.Kind != yaml.MappingNode {
		return err // what is no mapping is a well-known type's short form, or the decoder refuses it
	}
	var errs []error
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		field := message.Fields().ByName(protoreflect.Name(key.Value))
		if field == nil {
			errs = append(errs, d.position(key).Errorf("unknown field %q%s", key.Value, suggestion(message, key.Value)))
			continue
		}
		errs = append(errs, d.checkField(value, field))
	}
	return errors.Join(errs...)
}

// freeForm reports whether a message stands for whatever JSON there is.
func freeForm(message protoreflect.MessageDescriptor) bool {
	switch message.FullName() {
	case "google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue":
		return true
	}
	return false
}

// checkFree checks what may have any keys, and what stands below it.
func (d *Document) checkFree(node *yaml.Node) error {
	if err := d.checkMapping(node); err != nil {
		return err
	}
	var errs []error
	for i, child := range node.Content {
		if node.Kind == yaml.MappingNode && i%2 == 0 {
			if child.Tag == mergeTag { // the decoder takes it for a key like any other, and merges nothing
				errs = append(errs, d.position(child).Errorf("the merge key << is not allowed; write the keys out"))
			}
			continue
		}
		errs = append(errs, d.checkFree(child))
	}
	return errors.Join(errs...)
}

// mergeTag is how a key is tagged that stands for those of another mapping.
const mergeTag = "!!merge"

// suggestion names the field that another spelling stands for.
func suggestion(message protoreflect.MessageDescriptor, key string) string {
	if field := message.Fields().ByJSONName(key); field != nil {
		return "; write " + string(field.Name())
	}
	return ""
}

func (d *Document) checkField(node *yaml.Node, field protoreflect.FieldDescriptor) error {
	if field.IsMap() {
		return d.checkValues(node, field.MapValue(), 2)
	}
	if field.IsList() {
		return d.checkValues(node, field, 1)
	}
	return d.checkValue(node, field)
}

// checkValues checks the values of a map, where every second node is one, or the items of a list.
func (d *Document) checkValues(node *yaml.Node, field protoreflect.FieldDescriptor, step int) error {
	if err := d.checkMapping(node); err != nil {
		return err
	}
	var errs []error
	for i := step - 1; i < len(node.Content); i += step {
		errs = append(errs, d.checkValue(node.Content[i], field))
	}
	return errors.Join(errs...)
}

func (d *Document) checkValue(node *yaml.Node, field protoreflect.FieldDescriptor) error {
	if field.Message() != nil {
		return d.checkMessage(node, field.Message())
	}
	return d.checkMapping(node)
}

// checkMapping refuses aliases, and a key that stands twice.
func (d *Document) checkMapping(node *yaml.Node) error {
	if node.Kind == yaml.AliasNode {
		return d.position(node).Errorf("the alias *%s is not allowed; write the value out", node.Value)
	}
	if node.Kind != yaml.MappingNode {
		return nil
	}
	var errs []error
	lines := make(map[string]int)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := node.Content[i]
		if key.Kind != yaml.ScalarNode {
			errs = append(errs, d.position(key).Errorf("a key must be plain text"))
			continue
		}
		if line, ok := lines[key.Value]; ok {
			errs = append(errs, d.position(key).Errorf("the key %q stands already in line %d", key.Value, line))
			continue
		}
		lines[key.Value] = key.Line
	}
	return errors.Join(errs...)
}
