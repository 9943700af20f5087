package registration

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	registrationv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/registration/v1"
)

func TestEntriesArePinnedToBinaryAndUser(t *testing.T) {
	t.Parallel()
	bin := filepath.Join(t.TempDir(), "out")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	content := []byte("a program")
	if err := os.WriteFile(filepath.Join(bin, "ledger"), content, 0o700); err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(content)
	got := &registrationv1.Registration{Entries: []*registrationv1.Entry{
		{SpiffeId: "/ledger", Selectors: []string{"unix:path:bin/ledger"}, DnsNames: []string{"ledger"}},
		{SpiffeId: "/other", Selectors: []string{"unix:path:out/ledger", "unix:uid:7"}},
	}}
	if err := Pin(got, bin, 1000); err != nil {
		t.Fatal(err)
	}
	path, sum := "unix:path:"+filepath.Join(bin, "ledger"), "unix:sha256:"+hex.EncodeToString(digest[:])
	want := &registrationv1.Registration{Entries: []*registrationv1.Entry{
		{SpiffeId: "/ledger", Selectors: []string{path, sum, "unix:uid:1000"}, DnsNames: []string{"ledger"}},
		{SpiffeId: "/other", Selectors: []string{path, "unix:uid:7", sum}},
	}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("the entries differ (-want +got):\n%s", diff)
	}
	missing := &registrationv1.Registration{Entries: []*registrationv1.Entry{{Selectors: []string{"unix:path:bin/gone"}}}}
	if err := Pin(missing, bin, 1000); err == nil || !strings.Contains(err.Error(), filepath.Join(bin, "gone")) {
		t.Errorf("a missing binary: %v", err)
	}
}

func TestTheWrittenRegistrationIsReadAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registration.yaml")
	want := &registrationv1.Registration{TrustDomain: "bank.test", Entries: []*registrationv1.Entry{
		{SpiffeId: "/ledger", Selectors: []string{"unix:path:/a dir/: #led\"ger", "unix:uid:0"}, DnsNames: []string{"localhost"}},
	}}
	if err := Write(path, want, "bank.yaml"); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("read otherwise than written (-want +got):\n%s", diff)
	}
}
