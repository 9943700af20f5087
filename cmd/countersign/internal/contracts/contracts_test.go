package contracts_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/contracts"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

func TestAMethodIsFoundByWhatAPersonWrites(t *testing.T) {
	t.Parallel()
	const post = "bank.ledger.v1.LedgerService/PostTransfer"
	for written, want := range map[string]string{
		"PostTransfer":  post,
		"/PostTransfer": post,
		post:            post,
		"/" + post:      post,
		"bank.ledger.v1.LedgerService.PostTransfer":  post,
		"bank.ledger.v1.LedgerService/NoSuch":        "bank.ledger.v1.LedgerService/NoSuch",
		"ListConnections":                            "mesh.admin.v1.AdminService/ListConnections",
		"no.such.Service/Method":                     "no.such.Service/Method",
		"grpc.reflection.v1.ServerReflection/Mangle": "grpc.reflection.v1.ServerReflection/Mangle",
	} {
		if got, err := contracts.Bank().Find(written); got != want || err != nil {
			t.Errorf("%q is %q, %v; want %q", written, got, err, want)
		}
	}
	for written, want := range map[string]string{
		"NoSuch": `has a method "NoSuch"`,
		"":       "no service",
		"//x":    "is no method",
		"a/b/c":  "is no method",
		"a/":     "is no method",
	} {
		if got, err := contracts.Bank().Find(written); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is %q, %v; want the error %q", written, got, err, want)
		}
	}
}

func TestARequestIsMadeOfItsJSON(t *testing.T) {
	t.Parallel()
	set := contracts.Bank()
	got, err := set.Request("bank.ledger.v1.LedgerService/GetBalance", []byte(`{"accountId": "bank-cash"}`))
	if err != nil || !proto.Equal(got, &ledgerv1.GetBalanceRequest{AccountId: "bank-cash"}) {
		t.Errorf("the request is %v, %v", got, err)
	}
	for name, test := range map[string]struct{ method, json, want string }{
		"an unknown field":   {"bank.ledger.v1.LedgerService/GetBalance", `{"account": ""}`, `no bank.ledger.v1.GetBalanceRequest: `},
		"no JSON":            {"bank.ledger.v1.LedgerService/GetBalance", `account`, `no bank.ledger.v1.GetBalanceRequest: `},
		"an unknown method":  {"bank.ledger.v1.LedgerService/Burn", `{}`, `has no method "Burn"; it has PostTransfer`},
		"an unknown service": {"bank.x.v1.X/Burn", `{}`, "say where its contract is with --descriptors"},
	} {
		if got, err := set.Request(test.method, []byte(test.json)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, %v; want the error %q", name, got, err, test.want)
		}
	}
}

func TestAMethodThatTwoServicesHaveIsToBeWrittenWhole(t *testing.T) {
	t.Parallel()
	file := shop()
	file.File[0].Service[0].Method[0].Name = new("Check")
	set, err := contracts.Read(write(t, marshal(t, file)))
	if err != nil {
		t.Fatal(err)
	}
	want := "could be grpc.health.v1.Health/Check or shop.v1.ShopService/Check; write it whole"
	if got, err := set.Find("Check"); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("it is %q, %v", got, err)
	}
}

// shop is the contract of a service that this program has no types of.
func shop() *descriptorpb.FileDescriptorSet {
	text := descriptorpb.FieldDescriptorProto_TYPE_STRING
	optional := descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL
	return &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{{
		Name: new("shop/v1/shop.proto"), Package: new("shop.v1"), Syntax: new("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{
			{Name: new("BuyRequest"), Field: []*descriptorpb.FieldDescriptorProto{
				{Name: new("item"), JsonName: new("item"), Number: new(int32(1)), Type: &text, Label: &optional},
			}},
			{Name: new("BuyResponse")},
		},
		Service: []*descriptorpb.ServiceDescriptorProto{{
			Name:   new("ShopService"),
			Method: []*descriptorpb.MethodDescriptorProto{{Name: new("Buy"), InputType: new(".shop.v1.BuyRequest"), OutputType: new(".shop.v1.BuyResponse")}},
		}},
	}}}
}

func write(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "all.binpb")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestAFileOfDescriptorsIsReadWithWhatEveryServerHas(t *testing.T) {
	t.Parallel()
	set, err := contracts.Read(write(t, marshal(t, shop())))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "mesh.admin.v1.AdminService", "shop.v1.ShopService"}
	if got := set.Required(); !slices.Equal(got, want) {
		t.Errorf("a policy must have rules for %v, want %v", got, want)
	}
	if _, ok := set.Methods("mesh.audit.v1.AuditService"); !ok {
		t.Error("a policy may not have rules for audit")
	}
	if _, ok := set.Methods("bank.ledger.v1.LedgerService"); ok {
		t.Error("the bank's services are known, which are none of this file's")
	}
	got, err := set.Request("shop.v1.ShopService/Buy", []byte(`{"item": "tea"}`))
	if _, dynamic := got.(*dynamicpb.Message); err != nil || !dynamic {
		t.Errorf("the request is %T, %v", got, err)
	}
}

func TestANewerDescriptorHasItsOwnFields(t *testing.T) {
	t.Parallel()
	file := protodesc.ToFileDescriptorProto(ledgerv1.File_bank_ledger_v1_ledger_proto)
	// What is imported would have to be there too; without it only the names matter.
	kept := &descriptorpb.FileDescriptorProto{Name: file.Name, Package: file.Package, Syntax: file.Syntax}
	text, optional := descriptorpb.FieldDescriptorProto_TYPE_STRING, descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL
	kept.MessageType = []*descriptorpb.DescriptorProto{{Name: new("GetBalanceRequest"), Field: []*descriptorpb.FieldDescriptorProto{
		{Name: new("branch"), JsonName: new("branch"), Number: new(int32(9)), Type: &text, Label: &optional},
	}}}
	kept.Service = []*descriptorpb.ServiceDescriptorProto{{Name: new("LedgerService"), Method: []*descriptorpb.MethodDescriptorProto{
		{Name: new("GetBalance"), InputType: new(".bank.ledger.v1.GetBalanceRequest"), OutputType: new(".bank.ledger.v1.GetBalanceRequest")},
	}}}
	set, err := contracts.Read(write(t, marshal(t, &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{kept}})))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := set.Request("bank.ledger.v1.LedgerService/GetBalance", []byte(`{"branch": "north"}`)); err != nil {
		t.Errorf("the request is %v, %v", got, err)
	}
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	imports := shop()
	imports.File[0].Dependency = []string{"money.proto"}
	for name, test := range map[string]struct {
		data []byte
		want string
	}{
		"what is no set of descriptors": {[]byte("services: {}"), "as buf build -o"},
		"one without its imports":       {marshal(t, imports), "were the imports left out?"},
	} {
		if _, err := contracts.Read(write(t, test.data)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	if _, err := contracts.Read("/no/such.binpb"); err == nil || !strings.Contains(err.Error(), "read the descriptors: open /no/such.binpb") {
		t.Errorf("a file that is away: %v", err)
	}
}
