package policy_test

import (
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/countersign-mesh/countersign/pkg/policy"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

// A message that is nothing has nothing in it: it must not end the process.
func TestARequestThatIsATypedNilIsDecidedOn(t *testing.T) {
	t.Parallel()
	for _, when := range []string{`request.transfer_id == "t-1"`, `request.postings[0].account_id == "x"`, `request.postings.exists(p, true)`} {
		call := callOf(postTransfer, workload(t, "/a"))
		call.Request = (*ledgerv1.PostTransferRequest)(nil)
		if got := mustParse(t, conditionText(postTransfer, "allow", when)).Decide(call); got.Allowed || got.Undecided {
			t.Errorf("%s: %+v, want denied", when, got)
		}
	}
}

// A policy is asked from every call at once.
func TestConditionsAreSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	parsed := mustParse(t, conditionText(postTransfer, "allow", `request.postings.exists(p, p.amount.minor_units == 7) && peer.path == "/a"`))
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			call := callOf(postTransfer, workload(t, "/a"))
			for range 100 {
				call.Request = transfer(1, int64(i))
				if got := parsed.Decide(call); got.Allowed != (i == 7) {
					t.Errorf("with %d: %+v", i, got)
				}
			}
		})
	}
	group.Wait()
}

// described are the bank's contracts as a descriptor file has them: nothing of them is linked in.
func described(t *testing.T) *protoregistry.Files {
	t.Helper()
	files := new(protoregistry.Files)
	var add func(protoreflect.FileDescriptor)
	add = func(file protoreflect.FileDescriptor) {
		if _, err := files.FindFileByPath(file.Path()); err == nil {
			return
		}
		for i := range file.Imports().Len() {
			add(file.Imports().Get(i).FileDescriptor)
		}
		copied, err := protodesc.NewFile(protodesc.ToFileDescriptorProto(file), files)
		if err != nil {
			t.Fatal(err)
		}
		if err := files.RegisterFile(copied); err != nil {
			t.Fatal(err)
		}
	}
	add(ledgerv1.File_bank_ledger_v1_ledger_proto)
	return files
}

// The commands that test policies know messages by their descriptors alone.
func TestConditionsAreOverMessagesThatAreOnlyDescribed(t *testing.T) {
	t.Parallel()
	files := described(t)
	const when = `request.postings.exists(p, p.amount.minor_units == 7)`
	text := []byte(conditionText(postTransfer, "allow", when))
	found, err := files.FindDescriptorByName("bank.ledger.v1.PostTransferRequest")
	if err != nil {
		t.Fatal(err)
	}
	message, ok := found.(protoreflect.MessageDescriptor)
	if !ok {
		t.Fatalf("%v is no message", found)
	}
	parsed, err := policy.Parse("p.yaml", text, policy.WithDescriptors(files))
	if err != nil {
		t.Fatal(err)
	}
	for amount, want := range map[int64]bool{7: true, 8: false} {
		wire, err := proto.Marshal(transfer(amount))
		if err != nil {
			t.Fatal(err)
		}
		request := dynamicpb.NewMessage(message)
		if err := proto.Unmarshal(wire, request); err != nil {
			t.Fatal(err)
		}
		call := callOf(postTransfer, workload(t, "/a"))
		call.Request = request
		if got := parsed.Decide(call); got.Allowed != want {
			t.Errorf("with %d: %+v, want allowed %v", amount, got, want)
		}
	}
	_, err = policy.Parse("p.yaml", []byte(conditionText(postTransfer, "allow", "request.nope")), policy.WithDescriptors(files))
	if err == nil || !strings.Contains(err.Error(), "p.yaml:8:26: when: undefined field 'nope'") {
		t.Errorf("the error is %v", err)
	}
}

func TestOfConditionsOverUnknownMessagesTheGrammarIsChecked(t *testing.T) {
	t.Parallel()
	for name, method := range map[string]string{
		"a service that is not known":         "/some.other.v1.Service/Get",
		"a method that the service lacks":     "/bank.ledger.v1.LedgerService/Nothing",
		"a service that is another thing":     "/bank.ledger.v1.Posting/Get",
		"a service that is a message's field": "/bank.ledger.v1.Posting.amount/Get",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mustParse(t, conditionText(method, "allow", "request.anything == user.whatever"))
			_, err := policy.Parse("p.yaml", []byte(conditionText(method, "allow", "request.anything ==")))
			if err == nil || !strings.Contains(err.Error(), "p.yaml:8:38: when: Syntax error") {
				t.Errorf("the error is %v", err)
			}
		})
	}
	// With descriptors that have nothing in them no message is known, though it be linked in.
	if _, err := policy.Parse("p.yaml", []byte(conditionText(postTransfer, "allow", "request.nope")), policy.WithDescriptors(new(protoregistry.Files))); err != nil {
		t.Errorf("without descriptors: %v", err)
	}
}
