package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/svidfile"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// countersign runs a command line in a run directory of its own.
func countersign(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	err = run(append([]string{"--run-dir", t.TempDir()}, args...), strings.NewReader(""), &out, &errs)
	return out.String(), err
}

func exitCode(err error) int {
	if c, ok := errors.AsType[*codeError](err); ok {
		return c.code
	}
	return 1
}

func TestAMistakeOnTheCommandLineNamesTheFlag(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"an unknown command":             {[]string{"start"}, "unexpected argument start"},
		"an unknown flag":                {[]string{"up", "--ports", "7"}, "unknown flag --ports"},
		"no number":                      {[]string{"up", "--base-port", "many"}, "--base-port"},
		"no duration":                    {[]string{"up", "--svid-ttl", "2"}, "--svid-ttl"},
		"an SVID too short to renew":     {[]string{"up", "--svid-ttl", "1s"}, "--svid-ttl: 1s is too short"},
		"an authority that dies first":   {[]string{"up", "--svid-ttl", "1h", "--authority-ttl", "1m"}, "--authority-ttl: 1m0s is shorter than --svid-ttl"},
		"a bound of nothing":             {[]string{"up", "--stop-timeout", "0s"}, "--stop-timeout: 0s is not above zero"},
		"an unknown level":               {[]string{"up", "--log-level", "loud"}, "--log-level"},
		"health in no time":              {[]string{"healthcheck", "--timeout=0s"}, "--timeout: 0s is not above zero; right would be 2s"},
		"nowhere to install to":          {[]string{"policy", "install", "new.yaml"}, "--to"},
		"nowhere to write to":            {[]string{"svid", "write"}, "--dir"},
		"a call of nothing":              {[]string{"call", "ledger"}, "expected a method, such as CheckTrialBalance (countersign call --help"},
		"a call to nobody":               {[]string{"call"}, "expected a server, such as payments, and a method, such as"},
		"a decision without its ID":      {[]string{"audit", "show"}, "expected a decision's ID, from the error of a denied call"},
		"decisions about no ID":          {[]string{"audit", "query", "--peer=risk"}, "--peer: \"risk\" is no workload's SPIFFE ID"},
		"and of no server":               {[]string{"audit", "tail", "--server=spiffe://bank.test"}, "--server: \"spiffe://bank.test\" is no workload's SPIFFE ID: it names a trust domain"},
		"of a method that nobody has":    {[]string{"audit", "query", "--method=Steal"}, "--method: no service that this program knows has a method \"Steal\""},
		"with half a verdict":            {[]string{"audit", "query", "--verdict=maybe"}, "--verdict must be one of"},
		"since no time":                  {[]string{"audit", "query", "--since=yesterday"}, "--since: \"yesterday\" is no time; right would be 2026-11-05T09:30:00Z, or 10m"},
		"until a time to come":           {[]string{"audit", "query", "--until=-10m"}, "--until: \"-10m\" is no time"},
		"with a short ID":                {[]string{"audit", "query", "--decision=4b"}, "--decision: \"4b\" is no ID; right would be 32 lower-case hexadecimal digits"},
		"and all mistakes at once":       {[]string{"audit", "tail", "--peer=risk", "--trace=x", "--after=-1"}, "--after: -1 is no position"},
		"each of them":                   {[]string{"audit", "tail", "--peer=risk", "--trace=x", "--after=-1"}, "--trace: \"x\" is no ID"},
		"none of them":                   {[]string{"audit", "query", "--limit=0"}, "--limit: 0 is not above zero"},
		"a head that is none":            {[]string{"audit", "verify", "--expect=12"}, "--expect: \"12\" is no head"},
		"an argument that looks missing": {[]string{"peers", "ledger", "<addr>"}, "unexpected argument <addr>"},
		"a revocation of nobody":         {[]string{"revoke"}, "whom? Say one of --id, --serial and --authority"},
		"of an empty name":               {[]string{"revoke", "--id="}, "right would be --id /risk"},
		"of two at once":                 {[]string{"revoke", "--id=/risk", "--serial=4f"}, "--id and --serial can't be used together"},
		"of a name without a slash":      {[]string{"revoke", "--id=risk"}, "--id: \"risk\" is no workload's SPIFFE ID"},
		"of a name that ends in one":     {[]string{"revoke", "--id=/risk/"}, "right would be /risk or spiffe://bank.test/risk"},
		"of a whole trust domain":        {[]string{"revoke", "--id=spiffe://bank.test"}, "--id: \"spiffe://bank.test\" is no workload's SPIFFE ID: it names a trust domain"},
		"of a serial number in words":    {[]string{"revoke", "--serial=seven"}, "--serial: \"seven\" is no serial number; write it in hexadecimal"},
		"of half a byte of an authority": {[]string{"revoke", "--authority=9c1"}, "--authority: \"9c1\" is no subject key ID; write it in hexadecimal"},
		"for a cause as long as a book":  {[]string{"revoke", "--id=/risk", "--why=" + strings.Repeat("x", 501)}, "--why: right would be up to 500 characters"},
		"peers of nobody":                {[]string{"peers"}, "expected a server, such as payments (countersign peers --help"},
		"a policy that is not named":     {[]string{"policy", "apply"}, "expected the file with the new policy"},
		"a watch of nothing":             {[]string{"policy", "apply", "new.yaml", "--watch=0s"}, "--watch: 0s is not above zero; right would be 30s, or --no-watch"},
		"fewer denials than none":        {[]string{"policy", "apply", "new.yaml", "--max-denials=-1"}, "--max-denials: -1 is below zero"},
		"to ask and not to ask":          {[]string{"policy", "apply", "new.yaml", "--yes", "--dry-run"}, "--yes and --dry-run can't be used together"},
		"what was denied, into nothing":  {[]string{"policy", "learn", "--with-denied"}, "--with-denied: there is no least policy to put them into"},
		"a log of the future":            {[]string{"policy", "learn", "--since=-1h"}, "--since: -1h0m0s is below zero; right would be 24h"},
		"a profile that is a path":       {[]string{"bank", "accounts", "--profile=../alice"}, "--profile: \"../alice\" is no name of a profile"},
		"an issuer without TLS":          {[]string{"bank", "accounts", "--issuer=http://localhost"}, "--issuer: \"http://localhost\" is not a URL of an issuer"},
		"a payment of nothing":           {[]string{"bank", "pay", "acc-a", "0.00"}, "\"0.00\" is no amount to pay: it is not above zero"},
		"half a cent":                    {[]string{"bank", "pay", "acc-a", "1.005"}, "\"1.005\" is no amount; right would be 25.00"},
		"a payment to nobody":            {[]string{"bank", "pay"}, "expected the account to pay, such as acc-…, and how much, such as 25.00"},
		"two kinds of code":              {[]string{"bank", "login", "--otp=1", "--otp-secret=A"}, "--otp and --otp-secret can't be used together"},
		"nowhere for a certificate":      {[]string{"edge", "init"}, "--dir"},
		"a customer without a name":      {[]string{"customer", "add"}, "expected a customer, such as alice"},
		"which help explains the rest":   {[]string{"svid", "write"}, "countersign svid write --help"},
		"and which when there is no cmd": {[]string{"--what"}, "countersign --help"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := countersign(t, test.args...)
			if err == nil || !strings.Contains(err.Error(), test.want) || exitCode(err) != codeUsage {
				t.Errorf("the error is %v with code %d, want %q in it and code %d", err, exitCode(err), test.want, codeUsage)
			}
		})
	}
}

func TestHelpListsEveryCommand(t *testing.T) {
	t.Parallel()
	out, err := countersign(t, "--help")
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"up", "down", "status", "demo", "svid show", "svid write", "svid watch", "call", "proxy", "audit show", "audit query", "audit tail", "audit verify", "policy check", "policy test", "policy explain", "peers", "revoke", "policy matrix", "policy graph", "policy diff", "policy apply", "policy learn", "edge init", "bank enrol", "bank login", "bank pay", "bank watch", "customer add", "customer revoke-device"} {
		if !strings.Contains(out, "\n  "+command+" ") {
			t.Errorf("%q is not in the help:\n%s", command, out)
		}
	}
	if strings.Contains(out, "act ") {
		t.Errorf("what is for the demo alone is in the help:\n%s", out)
	}
}

func TestWithoutAMeshEachCommandSaysWhatToStart(t *testing.T) {
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", "")
	for name, args := range map[string][]string{
		"status": {"status"}, "demo": {"demo"}, "svid": {"svid", "show"}, "call": {"call", "ledger", "CheckTrialBalance"},
		"proxy": {"proxy", "ledger"}, "audit": {"audit", "show", "00"}, "audit query": {"audit", "query"}, "audit tail": {"audit", "tail"}, "audit verify": {"audit", "verify"}, "peers": {"peers", "ledger"}, "revoke": {"revoke", "--id=/risk"},
		"bank": {"bank", "accounts"}, "customer": {"customer", "devices", "alice"}, "edge root": {"edge", "root"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := countersign(t, args...)
			if err == nil || !strings.Contains(err.Error(), "countersign up") {
				t.Errorf("the error is %v", err)
			}
			want := 1
			if name == "status" {
				want = codeNotRunning
			}
			if exitCode(err) != want {
				t.Errorf("the exit code is %d, want %d", exitCode(err), want)
			}
		})
	}
	if out, err := countersign(t, "down"); err != nil || !strings.Contains(out, "No mesh was running") {
		t.Errorf("down: %q, %v", out, err)
	}
}

func TestUpWithoutProgramsSaysHowToBuildThem(t *testing.T) {
	t.Parallel()
	if _, err := countersign(t, "up", "--bin", t.TempDir()); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("the error is %v", err)
	}
}

func TestTheSVIDIsShownAndWritten(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", "trust_domain: bank.test\nservices: {a.v1.A: {methods: {Get: {}}}}\n")
	m.Identity(t, "/operator")
	socket := m.API(t, "/operator").Addr()
	out, err := countersign(t, "svid", "show", "--socket", socket)
	if err != nil || !strings.Contains(out, "spiffe://bank.test/operator\n") || !strings.Contains(out, "expires in  ") {
		t.Errorf("show: %q, %v", out, err)
	}
	if strings.Contains(out, "PRIVATE") {
		t.Error("the key is shown")
	}
	dir := filepath.Join(t.TempDir(), "svid")
	if out, err := countersign(t, "svid", "write", "--dir", dir, "--socket", socket); err != nil || !strings.Contains(out, dir) {
		t.Errorf("write: %q, %v", out, err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, svidfile.SVID), filepath.Join(dir, svidfile.Key))
	if err != nil || pair.Leaf.URIs[0].String() != "spiffe://bank.test/operator" {
		t.Errorf("the files: %v", err)
	}
}

func TestAProxyToTheNetworkIsRefused(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", "trust_domain: bank.test\nservices: {a.v1.A: {methods: {Get: {}}}}\n")
	m.Identity(t, "/operator")
	_, err := countersign(t, "proxy", "localhost:1", "--expect", "/ledger", "--listen", "0.0.0.0:0", "--socket", m.API(t, "/operator").Addr())
	if err == nil || !strings.Contains(err.Error(), "not a loopback address") {
		t.Errorf("the error is %v", err)
	}
}
