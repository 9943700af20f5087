package spire

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	registrationv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/registration/v1"
)

// file is a registration file of these entries.
func file(entries ...*registrationv1.Entry) *registrationv1.Registration {
	return &registrationv1.Registration{TrustDomain: "bank.test", Entries: entries}
}

func entry(id string, selectors ...string) *registrationv1.Entry {
	return &registrationv1.Entry{SpiffeId: id, Selectors: selectors}
}

// lived is an entry whose SVIDs live so long.
func lived(ttl time.Duration) *registrationv1.Entry {
	return &registrationv1.Entry{SpiffeId: "/a", Selectors: []string{"unix:path:/a"}, SvidTtl: durationpb.New(ttl)}
}

// known is a fake that has a bundle of bank.test.
func known() *fake { return &fake{bundle: &types.Bundle{TrustDomain: "bank.test"}} }

// register registers a file, which must succeed.
func register(t *testing.T, s *Server, f *registrationv1.Registration) Outcome {
	t.Helper()
	outcome, err := s.Register(t.Context(), f, "desk")
	if err != nil {
		t.Fatal(err)
	}
	return outcome
}

// paths are the entries' SPIFFE IDs in the order of their IDs, which is that in which an agent hands them out.
func (f *fake) paths() []string {
	var paths []string
	for _, e := range f.entries {
		paths = append(paths, e.GetSpiffeId().GetPath())
	}
	return paths
}

func TestEntriesOfAFileAreRegistered(t *testing.T) {
	t.Parallel()
	f := known()
	s := f.serve(t)
	got := register(t, s, file(
		&registrationv1.Entry{
			SpiffeId: "/ledger", Selectors: []string{"unix:path:/opt/a:b", "unix:uid:7"}, DnsNames: []string{"ledger"}, Hint: "books",
			SvidTtl: durationpb.New(time.Minute),
		},
		entry("/ledger", "socket:ledger"),
		entry("spiffe://bank.test/audit", "docker:label:countersign.workload:audit"),
		entry("/risk", "k8s:ns:bank", "k8s:sa:risk"),
	))
	if want := (Outcome{Created: 3, Skipped: 1}); got != want {
		t.Errorf("the outcome is %+v, want %+v", got, want)
	}
	if diff := cmp.Diff([]string{"/ledger", "/audit", "/risk", "/countersign/node/desk"}, f.paths()); diff != "" {
		t.Fatalf("the entries differ (-want +got):\n%s", diff)
	}
	ledger, alias := f.entries[0], f.entries[3]
	if s := ledger.GetSelectors()[0]; s.GetType() != "unix" || s.GetValue() != "path:/opt/a:b" {
		t.Errorf("the selector is %v", s)
	}
	if ledger.GetX509SvidTtl() != 60 || ledger.GetHint() != "books" || !slices.Equal(ledger.GetDnsNames(), []string{"ledger"}) {
		t.Errorf("the entry is %v", ledger)
	}
	if ledger.GetParentId().GetPath() != "/countersign/node/desk" || alias.GetParentId().GetPath() != "/spire/server" ||
		alias.GetSelectors()[0].GetValue() != "subject:cn:desk" {
		t.Errorf("the node's entry is %v, and a workload's has the parent %v", alias, ledger.GetParentId())
	}
}

func TestRegisteredAgainNothingChanges(t *testing.T) {
	t.Parallel()
	f := known()
	s := f.serve(t)
	list := file(entry("/ledger", "unix:path:/a", "unix:uid:7"), entry("/audit", "unix:path:/b"))
	register(t, s, list)
	f.calls = nil
	f.entries[0].Selectors[0], f.entries[0].Selectors[1] = f.entries[0].GetSelectors()[1], f.entries[0].GetSelectors()[0] // SPIRE has no order of them
	f.entries[0].RevisionNumber, f.entries[0].CreatedAt = 3, 1_700_000_000
	if got, want := register(t, s, list), (Outcome{Unchanged: 2}); got != want || len(f.calls) > 0 {
		t.Errorf("the outcome is %+v after %q, want %+v", got, f.calls, want)
	}
}

func TestEntriesFollowTheFile(t *testing.T) {
	t.Parallel()
	f := known()
	s := f.serve(t)
	register(t, s, file(entry("/ledger", "unix:path:/a"), entry("/audit", "unix:path:/b"), entry("/risk", "unix:path:/c")))
	f.calls = nil
	named := entry("/ledger", "unix:path:/a")
	named.DnsNames = []string{"ledger"}
	got := register(t, s, file(named, entry("/gateway", "unix:path:/d"), entry("/risk", "unix:path:/other")))
	if want := (Outcome{Created: 2, Updated: 1, Removed: 2}); got != want {
		t.Errorf("the outcome is %+v, want %+v", got, want)
	}
	if diff := cmp.Diff([]string{"/ledger", "/gateway", "/risk", "/countersign/node/desk"}, f.paths()); diff != "" {
		t.Errorf("the entries differ (-want +got):\n%s", diff)
	}
	if f.calls[0] != "delete" || f.calls[1] != "delete" {
		t.Errorf("what gave too much did not go first: %q", f.calls)
	}
}

func TestWhatSomebodyElseChangedInOurEntriesIsPutBack(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*types.Entry){
		"an administrator":       func(e *types.Entry) { e.Admin = true },
		"a server below":         func(e *types.Entry) { e.Downstream = true },
		"another trust domain":   func(e *types.Entry) { e.FederatesWith = []string{"other.test"} },
		"a longer life":          func(e *types.Entry) { e.X509SvidTtl = 86400 },
		"another name":           func(e *types.Entry) { e.DnsNames = []string{"ledger"} },
		"another hint":           func(e *types.Entry) { e.Hint = "other" },
		"an end":                 func(e *types.Entry) { e.ExpiresAt = 1_900_000_000 },
		"longer JWT-SVIDs":       func(e *types.Entry) { e.JwtSvidTtl = 86400 },
		"a key that is exported": func(e *types.Entry) { e.StoreSvid = true },
		"SVIDs that come late": func(e *types.Entry) {
			e.AdditionalAttributes = &types.Entry_AdditionalAttributes{DisableX509SvidPrefetch: true}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := known()
			s := f.serve(t)
			list := file(entry("/audit", "unix:path:/b"))
			register(t, s, list)
			change(f.entries[0])
			if got, want := register(t, s, list), (Outcome{Updated: 1}); got != want {
				t.Errorf("the outcome is %+v, want %+v", got, want)
			}
			if got, want := register(t, s, list), (Outcome{Unchanged: 1}); got != want {
				t.Errorf("and then %+v, want %+v", got, want)
			}
		})
	}
}

// The node's own entry decides which machine is given all the identities of the file.
func TestWhatSomebodyElseChangedInTheNodesEntryIsPutBack(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*types.Entry){
		"an administrator": func(e *types.Entry) { e.Admin = true },
		"a server below":   func(e *types.Entry) { e.Downstream = true },
		"another machine":  func(e *types.Entry) { e.Selectors[0].Value = "subject:cn:other" },
		"another property": func(e *types.Entry) { e.Selectors = []*types.Selector{{Type: "x509pop", Value: "serialnumber:1"}} },
		"another node":     func(e *types.Entry) { e.SpiffeId.Path = "/countersign/node/other" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := known()
			s := f.serve(t)
			list := file(entry("/audit", "unix:path:/b"))
			register(t, s, list)
			change(f.entries[1])
			if got, want := register(t, s, list), (Outcome{Updated: 1, Unchanged: 1}); got != want {
				t.Errorf("the outcome is %+v, want %+v", got, want)
			}
			if want := (node{name: "desk", td: spiffeid.RequireTrustDomainFromString("bank.test")}).alias(); len(f.entries) != 2 || !same(f.entries[1], want) {
				t.Errorf("the entries are %v, want the node's to be %v", f.entries, want)
			}
		})
	}
}

func TestWhatHasNoPlaceBesideTheNodesEntryIsRemoved(t *testing.T) {
	t.Parallel()
	f := known()
	s := f.serve(t)
	list := file(entry("/audit", "unix:path:/b"))
	register(t, s, list)
	second := proto.CloneOf(f.entries[1])
	second.Id, second.Selectors[0].Value = "countersign.desk.second", "subject:cn:other"
	theirs := proto.CloneOf(second)
	theirs.Id, theirs.SpiffeId.Path = "theirs", "/countersign/node/theirs"
	f.entries = append(f.entries, second, theirs)
	if got, want := register(t, s, list), (Outcome{Removed: 1, Unchanged: 1}); got != want {
		t.Errorf("the outcome is %+v, want %+v", got, want)
	}
	if diff := cmp.Diff([]string{"/audit", "/countersign/node/desk", "/countersign/node/theirs"}, f.paths()); diff != "" {
		t.Errorf("the entries differ (-want +got):\n%s", diff)
	}
}

// An entry that the server does not take must not keep the rights that somebody gave another one.
func TestWhatIsRefusedKeepsNothingElseFromBeingPutRight(t *testing.T) {
	t.Parallel()
	f := known()
	s := f.serve(t)
	register(t, s, file(entry("/audit", "unix:path:/b"), entry("/risk", "unix:path:/c")))
	f.entries[0].Admin = true
	f.refuse, f.deny = codes.InvalidArgument, status.Error(codes.Internal, "no disk is left")
	outcome, err := s.Register(t.Context(), file(entry("/audit", "unix:path:/b"), entry("/gateway", "unix:path:/d")), "desk")
	if err == nil || !strings.Contains(err.Error(), "create the entry of /gateway: told to") || !strings.Contains(err.Error(), "no disk is left") {
		t.Errorf("the error is %v, want both in it", err)
	}
	if f.entries[0].GetAdmin() || outcome.Updated != 1 || outcome.Others != 0 {
		t.Errorf("the administrator is left: %v; the outcome is %+v", f.entries[0], outcome)
	}
}

func TestAnEntryIsPutRightBeforeAnotherIsMade(t *testing.T) {
	t.Parallel()
	f := known()
	s := f.serve(t)
	register(t, s, file(entry("/audit", "unix:path:/b"), entry("/risk", "unix:path:/c")))
	f.entries[0].Admin, f.calls = true, nil
	register(t, s, file(entry("/audit", "unix:path:/b"), entry("/gateway", "unix:path:/d")))
	if diff := cmp.Diff([]string{"delete", "update", "create"}, f.calls); diff != "" {
		t.Errorf("the order differs (-want +got):\n%s", diff)
	}
}

func TestEntriesOfOthersAreLeftAlone(t *testing.T) {
	t.Parallel()
	f := known()
	s := f.serve(t)
	parent := &types.SPIFFEID{TrustDomain: "bank.test", Path: "/countersign/node/desk"}
	other := func(id, path string) *types.Entry {
		return &types.Entry{
			Id: id, ParentId: parent, SpiffeId: &types.SPIFFEID{TrustDomain: "bank.test", Path: path}, Selectors: []*types.Selector{{Type: "unix", Value: "path:/theirs"}},
		}
	}
	f.entries = []*types.Entry{other("aaa", "/theirs"), other("countersign.desktop.000001000.0", "/another-nodes"), other("zzz", "/ledger")}
	got := register(t, s, file(entry("/audit", "unix:path:/b"), entry("/ledger", "unix:path:/theirs")))
	if want := (Outcome{Created: 1, Others: 1}); got != want {
		t.Errorf("the outcome is %+v, want %+v", got, want)
	}
	if got, want := register(t, s, file(entry("/risk", "unix:path:/c"))), (Outcome{Created: 1, Removed: 1}); got != want {
		t.Errorf("the outcome is %+v, want %+v", got, want)
	}
	if diff := cmp.Diff([]string{"/theirs", "/risk", "/countersign/node/desk", "/another-nodes", "/ledger"}, f.paths()); diff != "" {
		t.Errorf("the entries differ (-want +got):\n%s", diff)
	}
}

func TestAFileThatCannotBeRegisteredChangesNothing(t *testing.T) {
	t.Parallel()
	for want, list := range map[string]*registrationv1.Registration{
		`of the trust domain "bank.test", and the registration file of "shop.test"`: {TrustDomain: "shop.test", Entries: []*registrationv1.Entry{entry("/a", "unix:path:/a")}},
		"entry 2, /a: entry 1 gives the same identity":                              file(entry("/a", "unix:path:/a", "unix:uid:1"), entry("/a", "unix:uid:1", "unix:path:/a")),
		"entry 1, /a: svid_ttl: 19s is too short for SPIRE":                         file(lived(19 * time.Second)),
		"svid_ttl: 20.5s has a fraction of a second":                                file(lived(20500 * time.Millisecond)),
		"SPIRE knows absolute paths only":                                           file(entry("/a", "unix:path:bin/a")),
		`not in the trust domain "bank.test"`:                                       file(entry("spiffe://other.test/a", "unix:path:/a")),
	} {
		f := known()
		s := f.serve(t)
		if _, err := s.Register(t.Context(), list, "desk"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want %q in it", err, want)
		}
		if len(f.calls) > 0 {
			t.Errorf("%q was done all the same", f.calls)
		}
	}
}

func TestAnEntryThatTheServerRefusesIsNamed(t *testing.T) {
	t.Parallel()
	f := known()
	f.refuse = codes.InvalidArgument
	s := f.serve(t)
	if _, err := s.Register(t.Context(), file(entry("/audit", "unix:path:/b")), "desk"); err == nil || !strings.Contains(err.Error(), "create the entry of /audit: told to") {
		t.Errorf("the error is %v", err)
	}
}

func TestAServerIsWaitedForUntilItHasAnAuthority(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	s := openAt(t, socket)
	out := errors.New("the time is over")
	bounded, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, out)
	defer cancel()
	if err := s.Await(bounded); !errors.Is(err, out) || !strings.Contains(err.Error(), "does not answer at "+socket) {
		t.Errorf("nobody serves: %v", err)
	}
	f := &fake{}
	f.listen(t, socket)
	result := make(chan error, 1)
	go func() { result <- s.Await(t.Context()) }()
	select {
	case err := <-result:
		t.Errorf("it was ready before it had a bundle: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	f.mu.Lock()
	f.bundle = &types.Bundle{TrustDomain: "bank.test"}
	f.mu.Unlock()
	if err := <-result; err != nil {
		t.Error(err)
	}
}

func TestTheBundleIsWrittenWithoutWhatIsTainted(t *testing.T) {
	t.Parallel()
	authority := func() []byte {
		signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c, err := sign(&x509.Certificate{Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true}, nil, nil, signer, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return c.Raw
	}
	good, tainted := authority(), authority()
	f := known()
	f.bundle.X509Authorities = []*types.X509Certificate{{Asn1: good}, {Asn1: tainted, Tainted: true}}
	s := f.serve(t)
	path := filepath.Join(t.TempDir(), "bundle.pem")
	if err := s.WriteBundle(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	want, err := x509.ParseCertificate(good)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || !bytes.Equal(text, encode(want)) {
		t.Errorf("the file has\n%s%v", text, err)
	}
	f.mu.Lock()
	f.bundle = &types.Bundle{TrustDomain: "bank.test", X509Authorities: []*types.X509Certificate{{Asn1: tainted, Tainted: true}}}
	f.mu.Unlock()
	if err := s.WriteBundle(t.Context(), path); err == nil {
		t.Error("a bundle without a good authority was written")
	}
}
