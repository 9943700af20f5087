package countersign_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/countersign-mesh/countersign/pkg/yamlfile"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

const deployed = "deploy/policy"

// schemaOf compiles a schema that was generated for editors, as an editor does.
func schemaOf(t *testing.T, path string) *jsonschema.Schema {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile(path)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// plain reads a text as nothing but YAML.
func plain(t *testing.T, text string) any {
	t.Helper()
	var value any
	if err := yaml.Unmarshal([]byte(text), &value); err != nil {
		t.Fatal(err)
	}
	return value
}

// Every policy file that is deployed says in its first line by which schema an editor is to check it, as the language server for YAML has it, and is good
// by that.
func TestDeployedFilesNameTheirSchemas(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(deployed + "/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	modeline := regexp.MustCompile(`^# yaml-language-server: \$schema=(schema/[a-z]+\.json)\n`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		names := modeline.FindSubmatch(text)
		if names == nil {
			t.Errorf("%s does not begin with # yaml-language-server: $schema=schema/policy.json", file)
			continue
		}
		if err := schemaOf(t, filepath.Join(deployed, string(names[1]))).Validate(plain(t, string(text))); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// A policy with all that a policy may have.
const wholePolicy = `trust_domain: bank.test
shadow: true
services:
  a.v1.A:
    served_by: [/a, "spiffe://partner.test/**"]
    methods:
      Get:
        allow:
          - {peer: /b, why: reads, when: "peer.path != ''", shadow: true}
          - peer: /c/**
        deny:
          - peer: spiffe://bank.test/c/d
      Drop: {}
include:
  - {file: teams/b.yaml, services: [b.v1.B]}
revoked:
  - {id: /gone, why: was broken into}
  - serial: 4f:9c
  - authority: 9c4f
`

const wholeTable = `cases:
  - peer: /b
    method: a.v1.A/Get
    want: allowed
  - {name: somebody else, peer: "spiffe://bank.test/x", method: a.v1.A/Get, request: {id: 7, of: [a]}, want: denied, rule: reads}
`

// What the schemas find wrong, the reader finds wrong too, and what the reader takes, so do they: an editor that marks a good file is not believed when it
// marks a bad one. The reader finds more, such as rules over several fields.
func TestSchemasAgreeWithTheReader(t *testing.T) {
	t.Parallel()
	policies := func(text string) error {
		_, err := yamlfile.Unmarshal("p.yaml", []byte(text), &policyv1.Policy{})
		return err
	}
	tables := func(text string) error {
		_, err := yamlfile.Unmarshal("t.yaml", []byte(text), &policyv1.Table{})
		return err
	}
	for _, test := range []struct {
		name        string
		schema      string
		read        func(text string) error
		whole       string
		is, instead string // what of the whole file is written in another way
		good        bool
	}{
		{"a whole policy", "policy.json", policies, wholePolicy, "", "", true},
		{"a policy of a trust domain alone", "policy.json", policies, "trust_domain: bank.test\n", "", "", true},
		{"nobody", "policy.json", policies, wholePolicy, "Drop: {}", "Drop: {allow: []}", true},
		{"no trust domain", "policy.json", policies, wholePolicy, "trust_domain: bank.test\n", "", false},
		{"a trust domain in upper case", "policy.json", policies, wholePolicy, ": bank.test", ": BANK", false},
		{"an unknown field", "policy.json", policies, wholePolicy, "shadow: true\n", "allow_all: true\n", false},
		{"a field by its JSON name", "policy.json", policies, wholePolicy, "served_by", "servedBy", false},
		{"a field by its number", "policy.json", policies, wholePolicy, "{peer: /b,", "{1: /b,", false},
		{"services in a list", "policy.json", policies, "trust_domain: bank.test\nservices: [a.v1.A]\n", "", "", false},
		{"a service with a slash in its name", "policy.json", policies, wholePolicy, "a.v1.A:", "/a.v1.A:", false},
		{"a method with its service in its name", "policy.json", policies, wholePolicy, "Get:", "a.v1.A.Get:", false},
		{"an unknown field of a method", "policy.json", policies, wholePolicy, "deny:", "refuse:", false},
		{"a peer where a list of rules is meant", "policy.json", policies, wholePolicy, "Drop: {}", "Drop: {allow: /b}", false},
		{"a name where a rule is meant", "policy.json", policies, wholePolicy, "- peer: /c/**", "- /c/**", false},
		{"a rule without a peer", "policy.json", policies, wholePolicy, "peer: /c/**", "why: reads", false},
		{"a peer without a slash", "policy.json", policies, wholePolicy, "peer: /c/**", "peer: payments", false},
		{"a peer that is a URL", "policy.json", policies, wholePolicy, "peer: /c/**", "peer: https://bank.test/payments", false},
		{"a peer that is a list", "policy.json", policies, wholePolicy, "peer: /c/**", "peer: [/c]", false},
		{"a reason that is too long", "policy.json", policies, wholePolicy, "why: reads", "why: " + strings.Repeat("a", 501), false},
		{"a shadow that is neither true nor false", "policy.json", policies, wholePolicy, "''\", shadow: true", "''\", shadow: dark", false},
		{"a server without a slash", "policy.json", policies, wholePolicy, "[/a,", "[a,", false},
		{"an include of no file", "policy.json", policies, wholePolicy, "file: teams/b.yaml, ", "", false},
		{"an include of no service", "policy.json", policies, wholePolicy, "[b.v1.B]", "[]", false},
		{"a serial number that is not hexadecimal", "policy.json", policies, wholePolicy, "4f:9c", "4g", false},
		{"a revoked ID without a slash", "policy.json", policies, wholePolicy, "id: /gone", "id: gone", false},
		{"a whole table", "table.json", tables, wholeTable, "", "", true},
		{"a table without cases", "table.json", tables, "cases: []\n", "", "", false},
		{"a case without a peer", "table.json", tables, wholeTable, "  - peer: /b\n    method", "  - method", false},
		{"a case without a method", "table.json", tables, wholeTable, "    method: a.v1.A/Get\n", "", false},
		{"a method with a slash in front", "table.json", tables, wholeTable, "method: a.v1.A/Get\n", "method: /a.v1.A/Get\n", false},
		{"a case that wants nothing", "table.json", tables, wholeTable, "    want: allowed\n", "", false},
		{"a case that wants something else", "table.json", tables, wholeTable, "want: allowed", "want: maybe", false},
		{"an unknown field of a case", "table.json", tables, wholeTable, "rule: reads", "line: 7", false},
		{"a request that is text", "table.json", tables, wholeTable, "{id: 7, of: [a]}", "id", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if strings.Count(test.whole, test.is) != 1 && test.is != "" {
				t.Fatalf("%q stands in the file %d times", test.is, strings.Count(test.whole, test.is))
			}
			text := strings.Replace(test.whole, test.is, test.instead, 1)
			bySchema := schemaOf(t, filepath.Join(deployed, "schema", test.schema)).Validate(plain(t, text))
			if test.good != (bySchema == nil) {
				t.Errorf("the schema: want good %t, got %v\n%s", test.good, bySchema, text)
			}
			if err := test.read(text); test.good != (err == nil) {
				t.Errorf("the reader: want good %t, got %v\n%s", test.good, err, text)
			}
		})
	}
}
