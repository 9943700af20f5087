package identity_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/identity"
)

// listOf is identity.NewRevocations of entries that are in order.
func listOf(entries ...identity.Revocation) *identity.Revocations {
	list, err := identity.NewRevocations(entries...)
	if err != nil {
		panic(err)
	}
	return list
}

// An entry that revokes nobody, or says two things, is an error and not a line that does nothing.
func TestNewRevocationsRefuses(t *testing.T) {
	t.Parallel()
	id := spiffeid.RequireFromString("spiffe://bank.test/payments")
	for name, entry := range map[string]identity.Revocation{
		"an entry that names nobody":             {Entry: "bank.yaml:12"},
		"an ID and a serial number":              {ID: id, Serial: "4f", Entry: "bank.yaml:12"},
		"a serial number and an authority":       {Serial: "4f", Authority: "9c", Entry: "bank.yaml:12"},
		"a serial number that is no hexadecimal": {Serial: "zz", Entry: "bank.yaml:12"},
		"an authority that is no hexadecimal":    {Authority: "9", Entry: "bank.yaml:12"},
	} {
		if _, err := identity.NewRevocations(entry); err == nil || !strings.Contains(err.Error(), "bank.yaml:12") {
			t.Errorf("%s: %v, want an error that says where", name, err)
		}
	}
}

// A tool that compares two lists sees each entry once, whatever the order in the file and however it was spelled.
func TestEntriesAreInOrder(t *testing.T) {
	t.Parallel()
	risk, payments := spiffeid.RequireFromString("spiffe://bank.test/risk"), spiffeid.RequireFromString("spiffe://bank.test/payments")
	list := listOf(
		identity.Revocation{Authority: "9C:1D", Entry: "bank.yaml:1"},
		identity.Revocation{Serial: "4F:3A", Entry: "bank.yaml:2"},
		identity.Revocation{ID: risk, Entry: "bank.yaml:3"},
		identity.Revocation{Serial: "1a", Entry: "bank.yaml:4"},
		identity.Revocation{ID: payments, Entry: "bank.yaml:5"},
		identity.Revocation{ID: risk, Entry: "bank.yaml:6"},
	)
	want := []identity.Revocation{
		{ID: payments, Entry: "bank.yaml:5"},
		{ID: risk, Entry: "bank.yaml:3"},
		{Serial: "1a", Entry: "bank.yaml:4"},
		{Serial: "4f3a", Entry: "bank.yaml:2"},
		{Authority: "9c1d", Entry: "bank.yaml:1"},
	}
	if got := list.Entries(); !slices.Equal(got, want) {
		t.Errorf("the entries are %+v, want %+v", got, want)
	}
	var none *identity.Revocations
	if got := none.Entries(); got != nil {
		t.Errorf("the nil list has the entries %+v", got)
	}
}

// However a serial number or an authority is written, it is the same.
func TestNewRevocationsReadsEverySpelling(t *testing.T) {
	t.Parallel()
	peer := &identity.Peer{Serial: "4f3a19"}
	for _, serial := range []string{"4f3a19", "4F3A19", "4f:3a:19", "004f3a19"} {
		if listOf(identity.Revocation{Serial: serial}).Check(peer) == nil {
			t.Errorf("%q does not revoke %q", serial, peer.Serial)
		}
	}
}

func TestParseSerial(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, text, want string }{
		{"plain", "4f3a19", "4f3a19"},
		{"with colons", "4f:3a:19", "4f3a19"},
		{"in capitals", "4F:3A:19", "4f3a19"},
		{"with leading zeros, as openssl writes a byte", "00:0A:19", "a19"},
		{"an odd number of digits, as Peer.Serial may have", "f3a19", "f3a19"},
		{"longer than RFC 5280 allows, which some authorities do", strings.Repeat("a1", 32), strings.Repeat("a1", 32)},
		{"empty", "", ""},
		{"colons alone", "::", ""},
		{"zero", "00", ""},
		{"negative", "-4f", ""},
		{"with a plus sign", ":+4f", ""},
		{"with a prefix", "0x4f", ""},
		{"not hexadecimal", "4g", ""},
		{"with spaces", "4f 3a", ""},
		{"with underscores", "4f_3a", ""},
	} {
		got, err := identity.ParseSerial(c.text)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: ParseSerial(%q) = %q, %v; want %q", c.name, c.text, got, err, c.want)
		}
	}
}

func TestParseAuthority(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, text, want string }{
		{"plain", "9c1d07", "9c1d07"},
		{"with colons", "9c:1d:07", "9c1d07"},
		{"in capitals", "9C:1D:07", "9c1d07"},
		{"with leading zeros, which count", "00:1d:07", "001d07"},
		{"empty", "", ""},
		{"colons alone", "::", ""},
		{"half a byte", "9c1", ""},
		{"with a prefix", "0x9c", ""},
		{"not hexadecimal", "zz", ""},
		{"with spaces", "9c 1d", ""},
	} {
		got, err := identity.ParseAuthority(c.text)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: ParseAuthority(%q) = %q, %v; want %q", c.name, c.text, got, err, c.want)
		}
	}
}
