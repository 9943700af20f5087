// Command protoc-gen-editorschema is a plugin for buf that writes the JSON schemas by which editors check and complete YAML files of some messages.
//
// protoc-gen-jsonschema, which lies beside it, makes them, in its strict form: each field has one name, and what has none is an error. That form is
// of messages as protobuf writes them on demand, with a value for everything, so it requires every field that is no message, map or list. People leave
// out what they do not need. So here a field is required only where its zero value would be refused.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/pluginpb"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "protoc-gen-editorschema:", err)
		os.Exit(1)
	}
}

// run answers a request as plugins do. Its parameter is messages=, the full names of messages with a plus between them.
func run(in io.Reader, out io.Writer) error {
	data, err := io.ReadAll(in)
	if err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	request := &pluginpb.CodeGeneratorRequest{}
	if err := proto.Unmarshal(data, request); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	messages, ok := strings.CutPrefix(request.GetParameter(), "messages=")
	if !ok {
		return fmt.Errorf("the parameter is %q; it must be messages=, and their full names with + between them", request.GetParameter())
	}
	response, err := generate(request)
	if err != nil {
		return err
	}
	if response.Error == nil {
		if response.File, err = choose(response.GetFile(), strings.Split(messages, "+")); err != nil {
			return err
		}
	}
	if data, err = proto.Marshal(response); err != nil {
		return fmt.Errorf("write the response: %w", err)
	}
	_, err = out.Write(data)
	return err
}

// generate asks protoc-gen-jsonschema for the schemas of all messages.
func generate(request *pluginpb.CodeGeneratorRequest) (*pluginpb.CodeGeneratorResponse, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find protoc-gen-jsonschema: %w", err)
	}
	request.Parameter = new("target=proto-strict-bundle")
	in, err := proto.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("ask protoc-gen-jsonschema: %w", err)
	}
	plugin := exec.Command(filepath.Join(filepath.Dir(self), "protoc-gen-jsonschema")) //nolint:gosec,noctx // it ends with its input
	plugin.Stdin, plugin.Stderr = bytes.NewReader(in), os.Stderr
	out, err := plugin.Output()
	if err != nil {
		return nil, fmt.Errorf("run protoc-gen-jsonschema: %w", err)
	}
	response := &pluginpb.CodeGeneratorResponse{}
	if err := proto.Unmarshal(out, response); err != nil {
		return nil, fmt.Errorf("read what protoc-gen-jsonschema made: %w", err)
	}
	return response, nil
}

// choose returns the schemas of these messages alone, each in a file that is called like the message: policy.json.
func choose(files []*pluginpb.CodeGeneratorResponse_File, messages []string) ([]*pluginpb.CodeGeneratorResponse_File, error) {
	var chosen []*pluginpb.CodeGeneratorResponse_File
	for _, message := range messages {
		at := slices.IndexFunc(files, func(f *pluginpb.CodeGeneratorResponse_File) bool {
			return f.GetName() == message+".schema.strict.bundle.json"
		})
		if at < 0 {
			return nil, fmt.Errorf("there is no message %s", message)
		}
		name := strings.ToLower(message[strings.LastIndex(message, ".")+1:]) + ".json"
		content, err := loosen(files[at].GetContent(), name)
		if err != nil {
			return nil, fmt.Errorf("the schema of %s: %w", message, err)
		}
		chosen = append(chosen, &pluginpb.CodeGeneratorResponse_File{Name: &name, Content: &content})
	}
	return chosen, nil
}

// bundle is a schema with those that it refers to.
type bundle struct {
	Schema string                    `json:"$schema"`
	ID     string                    `json:"$id"`
	Ref    string                    `json:"$ref"`
	Defs   map[string]map[string]any `json:"$defs"`
}

// loosen requires no field whose zero value is good, and calls the schema name.
func loosen(content, name string) (string, error) {
	var schema bundle
	if err := json.Unmarshal([]byte(content), &schema); err != nil {
		return "", err
	}
	schema.ID = name
	for _, def := range schema.Defs {
		fields, _ := def["properties"].(map[string]any)
		required, _ := def["required"].([]any)
		var still []any
		for _, field := range required {
			key, _ := field.(string)
			rules, _ := fields[key].(map[string]any)
			refused, err := refusesZero(rules)
			if err != nil {
				return "", fmt.Errorf("%s: %w", key, err)
			}
			if refused {
				still = append(still, field)
			}
		}
		delete(def, "required")
		if len(still) > 0 {
			def["required"] = still
		}
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(schema); err != nil {
		return "", err
	}
	return text.String(), nil
}

// refusesZero reports whether the rules of a field refuse an empty string. What other zero values they refuse is left to whoever reads the file: a
// schema that asks for too little does no harm, and one that asks for too much marks good files as bad.
func refusesZero(rules map[string]any) (bool, error) {
	if rules["type"] != "string" {
		return false, nil
	}
	if least, ok := rules["minLength"].(float64); ok && least > 0 {
		return true, nil
	}
	if values, ok := rules["enum"].([]any); ok && !slices.Contains(values, any("")) {
		return true, nil
	}
	if pattern, ok := rules["pattern"].(string); ok {
		compiled, err := regexp.Compile(pattern)
		return err == nil && !compiled.MatchString(""), err
	}
	return false, nil
}
