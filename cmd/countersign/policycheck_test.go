package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

var bankPolicy = filepath.Join("..", "..", "deploy", "policy", "bank.yaml")

// changedBank writes the bank's policy with one change.
func changedBank(t *testing.T, old, changed string) string {
	t.Helper()
	text, err := os.ReadFile(bankPolicy)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		t.Fatalf("the bank's policy has no %q", old)
	}
	return writeTemp(t, "bank.yaml", strings.Replace(string(text), old, changed, 1))
}

func writeTemp(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCheckSaysThatAPolicyIsGood(t *testing.T) {
	t.Parallel()
	out, err := countersign(t, "policy", "check", "--strict", "--policy", bankPolicy)
	if err != nil || !regexp.MustCompile(`^\.\./\.\./deploy/policy/bank\.yaml is good: 11 services, \d+ methods and \d+ rules in 1 file, version [0-9a-f]{16}\.\n$`).MatchString(out) {
		t.Errorf("%q, %v", out, err)
	}
	b := newBank(t, "ledger")
	if out, err := b.countersign(t, "policy", "check"); err != nil || !strings.HasPrefix(out, b.policy+" is good: ") {
		t.Errorf("of the mesh that runs: %q, %v", out, err)
	}
}

func TestCheckListsAllThatIsWrong(t *testing.T) {
	t.Parallel()
	path := changedBank(t, "      PostTransfer:", "      Mint: {}\n      PostTransfers:")
	out, err := countersign(t, "policy", "check", "--policy", path)
	if err == nil || err.Error() != path+" has 3 errors" || exitCode(err) != 1 {
		t.Errorf("the error is %v", err)
	}
	for _, want := range []string{"no method Mint; it has ", "no method PostTransfers; did you mean PostTransfer?", "the method PostTransfer of bank.ledger.v1.LedgerService has no rules"} {
		if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(path) + `:\d+:\d+: .*` + regexp.QuoteMeta(want)).MatchString(out) {
			t.Errorf("there is no %q in\n%s", want, out)
		}
	}
}

func TestCheckLetsWarningsPassUnlessItIsStrict(t *testing.T) {
	t.Parallel()
	path := changedBank(t, "    served_by: [/risk]\n", "")
	out, err := countersign(t, "policy", "check", "--policy", path)
	if err != nil || !strings.Contains(out, ": warning: bank.risk.v1.RiskService has no served_by") || !strings.Contains(out, " is good: ") {
		t.Errorf("%q, %v", out, err)
	}
	out, err = countersign(t, "policy", "check", "--strict", "--policy", path)
	if err == nil || err.Error() != path+" has 1 warning" || strings.Contains(out, " is good") {
		t.Errorf("strictly: %q, %v", out, err)
	}
}

// descriptorsOf writes a file of descriptors with its imports.
func descriptorsOf(t *testing.T, file protoreflect.FileDescriptor) string {
	t.Helper()
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
	add(file)
	data, err := proto.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return writeTemp(t, "all.binpb", string(data))
}

func TestCheckGoesByTheContractsThatItIsGiven(t *testing.T) {
	t.Parallel()
	const text = `trust_domain: bank.test
services:
  bank.ledger.v1.LedgerService:
    served_by: [/ledger]
    methods:
      PostTransfer: {allow: [{peer: /payments, when: request.postings.size() <= 8}]}
      GetBalance: {}
      ListEntries: {}
      CheckTrialBalance: {}
      ReserveFunds: {}
      CaptureHold: {}
      ReleaseHold: {}
      ListHolds: {}
  mesh.admin.v1.AdminService:
    served_by: [/ledger]
    methods: {ListConnections: {}, ListCuts: {}, GetPolicy: {}, ExplainDecision: {}}
  grpc.health.v1.Health:
    served_by: [/ledger]
    methods: {Check: {}, List: {}, Watch: {}}
  grpc.reflection.v1.ServerReflection:
    served_by: [/ledger]
    methods: {ServerReflectionInfo: {}}
`
	descriptors := descriptorsOf(t, ledgerv1.File_bank_ledger_v1_ledger_proto)
	path := writeTemp(t, "p.yaml", text)
	if out, err := countersign(t, "policy", "check", "--policy", path, "--descriptors", descriptors); err != nil || !strings.Contains(out, " is good: 4 services, 16 methods and 1 rule in 1 file") {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := countersign(t, "policy", "check", "--policy", path); err == nil || !strings.Contains(out, "the service bank.risk.v1.RiskService has no rules") {
		t.Errorf("with the bank's contracts: %q, %v", out, err)
	}
	path = writeTemp(t, "p.yaml", strings.Replace(text, "postings.size()", "posting.size()", 1))
	if out, err := countersign(t, "policy", "check", "--policy", path, "--descriptors", descriptors); err == nil || !strings.Contains(out, "p.yaml:6:61: when: undefined field 'posting'") {
		t.Errorf("a condition over a field that there is not: %q, %v", out, err)
	}
}

func TestCheckFailsForWhatIsNotThere(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"no policy":      {nil, "which policy file? Say it with --policy"},
		"no such policy": {[]string{"--policy", "/no/such.yaml"}, "read the policy: open /no/such.yaml"},
		"no contracts":   {[]string{"--policy", bankPolicy, "--descriptors", "/no/such.binpb"}, "read the descriptors: open /no/such.binpb"},
		"no descriptors": {[]string{"--policy", bankPolicy, "--descriptors", bankPolicy}, "no google.protobuf.FileDescriptorSet"},
	} {
		if _, err := countersign(t, append([]string{"policy", "check"}, test.args...)...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}
