package site_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/site"
)

var own = spiffeid.RequireTrustDomainFromString("bank.test")

// runDir is a run directory of a mesh that runs, and empty of one that does not.
func runDir(t *testing.T, programs ...rundir.Program) (running, empty rundir.Dir) {
	t.Helper()
	running, err := rundir.At(filepath.Join(t.TempDir(), "run")) // t.TempDir is open to others
	if err != nil {
		t.Fatal(err)
	}
	if err := running.Create(); err != nil {
		t.Fatal(err)
	}
	if empty, err = rundir.At(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	self, err := rundir.Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	err = running.Write(rundir.Record{
		TrustDomain: "bank.test", Supervisor: self, WorkloadAPI: "unix:///run/api.sock", Policy: "/etc/bank.yaml", Bin: "/opt/bin", SVIDTTL: time.Minute,
		Programs: append([]rundir.Program{{Name: "authority"}}, programs...),
	})
	if err != nil {
		t.Fatal(err)
	}
	return running, empty
}

// meshFile writes a mesh file.
func meshFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func target(path, address string) dial.Target {
	return dial.Target{Address: address, ID: spiffeid.RequireFromPath(own, path)}
}

const elsewhere = `services: {ledger: "ledger:8443", audit: "10.0.0.7:1"}
trust_domain: bank.test
workload_api: unix:///run/spiffe/api.sock
policy: ../policy/bank.yaml
svid_ttl: 2m30s
actors: /run/actors
`

var ledgerHere = rundir.Program{Name: "ledger", SPIFFEID: "spiffe://bank.test/ledger", Address: "127.0.0.1:7446"}

func TestAMeshIsTheSameHoweverItIsFound(t *testing.T) {
	t.Parallel()
	dir, _ := runDir(t, ledgerHere)
	got, err := site.Finder{Dir: dir}.Find()
	want := site.Site{
		Name: "the mesh in " + dir.String(), TrustDomain: own, WorkloadAPI: "unix:///run/api.sock", Policy: "/etc/bank.yaml", SVIDTTL: time.Minute,
		Services: []site.Service{{Name: "ledger", Target: target("/ledger", "127.0.0.1:7446")}}, ActorPrograms: "/opt/bin/actors",
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(own, spiffeid.ID{})); diff != "" || err != nil {
		t.Errorf("in the run directory (-want +got), %v:\n%s", err, diff)
	}

	path := meshFile(t, elsewhere)
	got, err = site.Finder{File: path, Dir: dir}.Find() // which wins over the mesh that runs
	want = site.Site{
		Name: "the mesh of " + path, TrustDomain: own, WorkloadAPI: "unix:///run/spiffe/api.sock", SVIDTTL: 150 * time.Second,
		Policy:       filepath.Join(filepath.Dir(filepath.Dir(path)), "policy", "bank.yaml"),
		Services:     []site.Service{{Name: "ledger", Target: target("/ledger", "ledger:8443")}, {Name: "audit", Target: target("/audit", "10.0.0.7:1")}},
		ActorSockets: "/run/actors",
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(own, spiffeid.ID{})); diff != "" || err != nil {
		t.Errorf("of the mesh file (-want +got), %v:\n%s", err, diff)
	}
}

func TestTheMeshFileOfComposeIsGood(t *testing.T) {
	t.Parallel()
	s, err := site.Read("../../../../deploy/compose/mesh.yaml")
	if err != nil || len(s.Services) != 7 || s.Edge.Login != "login:8445" || s.Edge.Root != "/edge-root/root.pem" || s.Policy != "/policy/bank.yaml" || s.ActorSockets != "/run/actors" || s.SVIDTTL <= 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestEveryMistakeInAMeshFileHasItsLine(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"all at once": {
			"trust_domain: Bank Test\npolicies: x\nworkload_api: /run/api.sock\nsvid_ttl: -1\npolicy: [a]\nactors:\nservices:\n  ledger: ledger\n  audit: audit:0\n  risk: {a: b}\n  ledger: again:1\n",
			[]string{
				":1: ", ":2: unknown field \"policies\"; a mesh file has actors, edge, policy, services, svid_ttl, trust_domain, workload_api", ":3: ",
				":4: \"-1\" is not how long an SVID lives: ", "right would be 2m", ":5: there is no text here", ":6: there is no text here",
				":8: \"ledger\" is not HOST:PORT: ", ":9: \"audit:0\" is not HOST:PORT: the port is not from 1 to 65535; right would be ledger:8443",
				":10: there is no text here", ":11: \"ledger\" stands already in line 8",
			},
		},
		"an SVID of no life":    {"trust_domain: bank.test\nservices: {a: a:1}\nsvid_ttl: 0s\n", []string{":3: \"0s\" is not how long an SVID lives: it is not above zero"}},
		"no name of a workload": {"services: {a b: a:1, c: ':1'}\ntrust_domain: bank.test\n", []string{":1: \"a b\" is not the path of a SPIFFE ID", ":1: \":1\" is not HOST:PORT: it has no host"}},
		"what is missing":       {"policy: a\n", []string{":1: trust_domain is missing", ":1: services is missing"}},
		"nobody there":          {"trust_domain: bank.test\nservices: {}\n", []string{":2: there is no service"}},
		"no edge": {
			"trust_domain: bank.test\nservices: {a: a:1}\nedge: {grpc: gateway, issuer: 'http://login', login: login:8445, root: '', door: x}\n",
			[]string{
				":3: \"gateway\" is not HOST:PORT", ":3: \"http://login\" is not a URL of an issuer, such as https://login.bank.test:8445", ":3: there is no text here",
				":3: unknown field \"door\"; edge has grpc, issuer, login, rest, root", ":3: edge: rest is missing",
			},
		},
		"a list":                   {"- a\n", []string{":1: the mesh file must be a mapping"}},
		"a service list":           {"trust_domain: bank.test\nservices: [ledger]\n", []string{":2: services must be a mapping"}},
		"an empty file":            {"# nothing\n", []string{":1: the file is empty; it needs trust_domain and services"}},
		"two documents":            {"trust_domain: a\n---\ntrust_domain: b\n", []string{"more than one YAML document"}},
		"no YAML":                  {"trust_domain: bank.test\n\tservices: {}\n", []string{"line 2"}},
		"an alias for the address": {"trust_domain: bank.test\nservices: {a: &x a:1, b: *x}\n", []string{":2: there is no text here"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := meshFile(t, test.text)
			_, err := site.Read(path)
			if err == nil || !strings.Contains(err.Error(), path) {
				t.Fatalf("the error is %v", err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error lacks %q:\n%v", want, err)
				}
			}
		})
	}
}

func TestAServerIsFoundByNameOrAddress(t *testing.T) {
	t.Parallel()
	dir, empty := runDir(t, ledgerHere)
	file := meshFile(t, elsewhere)
	for name, test := range map[string]struct {
		in                 site.Finder
		addr, expect, want string
	}{
		"a name":                       {site.Finder{Dir: dir}, "ledger", "", "spiffe://bank.test/ledger at 127.0.0.1:7446"},
		"a name in a mesh file":        {site.Finder{File: file, Dir: dir}, "ledger", "", "spiffe://bank.test/ledger at ledger:8443"},
		"a name that must be another":  {site.Finder{Dir: dir}, "ledger", "/risk", "spiffe://bank.test/risk at 127.0.0.1:7446"},
		"an address":                   {site.Finder{Dir: empty}, "localhost:1", "/ledger", "spiffe://bank.test/ledger at localhost:1"},
		"an address elsewhere":         {site.Finder{Dir: empty}, "[::1]:1", "spiffe://other.test/a", "spiffe://other.test/a at [::1]:1"},
		"an unknown name":              {site.Finder{Dir: dir}, "books", "", "it has ledger"},
		"unknown in a mesh file":       {site.Finder{File: file}, "books", "", `mesh.yaml has no service "books"; it has ledger, audit`},
		"one that serves no gRPC":      {site.Finder{Dir: dir}, "authority", "", "it has ledger"},
		"a name without a mesh":        {site.Finder{Dir: empty}, "ledger", "", "countersign up; or say with --mesh where another one is"},
		"a mesh file that is not":      {site.Finder{File: "nowhere.yaml", Dir: dir}, "ledger", "", "read the mesh file: open nowhere.yaml"},
		"an address and nobody":        {site.Finder{Dir: dir}, "localhost:1", "", "--expect"},
		"an address and a wrong ID":    {site.Finder{Dir: dir}, "localhost:1", "ledger", "right would be /ledger"},
		"an address and no workload":   {site.Finder{Dir: dir}, "localhost:1", "spiffe://bank.test", "names a trust domain"},
		"neither a name nor a address": {site.Finder{Dir: dir}, "a:b:c", "/ledger", "neither HOST:PORT"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := test.in.Target(own, test.addr, test.expect)
			if err == nil && got.String() != test.want || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, %v; want %q", got, err, test.want)
			}
		})
	}
}

func TestTheWorkloadAPIIsTheOneGivenElseTheMeshs(t *testing.T) {
	t.Parallel()
	dir, empty := runDir(t)
	file := meshFile(t, elsewhere)
	silent := meshFile(t, "trust_domain: bank.test\nservices: {ledger: ledger:8443}\n")
	for name, test := range map[string]struct {
		in          site.Finder
		given, want string
	}{
		"in the run directory": {site.Finder{Dir: dir}, "", "unix:///run/api.sock"},
		"in a mesh file":       {site.Finder{File: file, Dir: dir}, "", "unix:///run/spiffe/api.sock"},
		"given":                {site.Finder{File: file, Dir: dir}, "unix:///mine", "unix:///mine"},
		"given without a mesh": {site.Finder{Dir: empty}, "unix:///mine", "unix:///mine"},
		"nowhere":              {site.Finder{Dir: empty}, "", "SPIFFE_ENDPOINT_SOCKET"},
		"not in the mesh file": {site.Finder{File: silent, Dir: dir}, "", "says no workload_api"},
		"in no mesh file":      {site.Finder{File: "nowhere.yaml", Dir: dir}, "", "read the mesh file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := test.in.Endpoint(test.given)
			if err == nil && got != test.want || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %q, %v; want %q", got, err, test.want)
			}
		})
	}
	if _, err := (site.Finder{Dir: empty}).Find(); !errors.Is(err, rundir.ErrNoMesh) {
		t.Errorf("the error without a mesh is %v", err)
	}
}
