package settings_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/pkg/settings"
)

type flags struct {
	Socket settings.Endpoint    `name:"workload-api" env:"SPIFFE_ENDPOINT_SOCKET" help:"The Workload API."`
	Listen settings.Address     `default:"127.0.0.1:8443" help:"Where to listen."`
	Ledger settings.Target      `default:"dns:///ledger:8443" help:"The ledger."`
	Policy settings.File        `required:"" help:"The policy."`
	TTL    settings.Duration    `default:"1h" help:"How long."`
	Calls  settings.Count       `default:"512" help:"How many."`
	Level  settings.Level       `default:"info" help:"How much."`
	Format settings.LogFormat   `default:"text" help:"How."`
	Domain settings.TrustDomain `default:"bank.test" help:"Where."`
	DSN    settings.DSN         `name:"dsn" default:"sqlite:x.db" help:"State."`
}

func policyFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestParseReadsFlagsAndEnvironment(t *testing.T) {
	policy := policyFile(t)
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", "unix:///run/api.sock")
	t.Setenv("PROG_TTL", "90s")
	t.Setenv("PROG_CALLS", "64")
	t.Setenv("PROG_LISTEN", "127.0.0.1:1")
	var got flags
	err := settings.Parse("prog", "Does it.", []string{"--policy", policy, "--listen", "127.0.0.1:2"}, &bytes.Buffer{}, &got)
	if err != nil {
		t.Fatal(err)
	}
	if got.Socket != "unix:///run/api.sock" || got.TTL.Value() != 90*time.Second || got.Calls.Value() != 64 || got.Ledger != "dns:///ledger:8443" {
		t.Errorf("got %+v", got)
	}
	if got.Listen != "127.0.0.1:2" {
		t.Errorf("the environment won over the command line: %s", got.Listen)
	}
}

func TestACommandHasTheVariablesOfItsProgram(t *testing.T) {
	t.Setenv("PROG_LISTEN", "127.0.0.1:3")
	var got struct {
		Listen settings.Address `default:"127.0.0.1:1" help:"Where."`
	}
	if err := settings.Parse("prog verify", "Checks it.", nil, &bytes.Buffer{}, &got); err != nil || got.Listen != "127.0.0.1:3" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestParseReportsEveryBadValueAtOnce(t *testing.T) {
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", "tcp://example.org:1")
	t.Setenv("PROG_LEVEL", "loud")
	var got flags
	err := settings.Parse("prog", "Does it.", []string{
		"--listen=8443", "--ledger=ledger", "--policy=/no/such/file", "--ttl=-1s", "--calls=0", "--format=xml", "--domain=UPPER", "--dsn=mysql:user:secret@x",
	}, &bytes.Buffer{}, &got)
	if err == nil {
		t.Fatal("it was accepted")
	}
	for _, want := range []string{
		"--workload-api (or SPIFFE_ENDPOINT_SOCKET): \"tcp://example.org:1\"", "unix:///PATH",
		`--listen: "8443" is not HOST:PORT, such as 127.0.0.1:8443`,
		`--ledger: "ledger" is not a gRPC target with a port, such as dns:///ledger:8443`,
		"--policy: stat /no/such/file: no such file",
		`--ttl: "-1s" is not a duration above zero, such as 90s`,
		`--calls: "0" is not a number from 1 to 1000000, such as 512`,
		`--level (or PROG_LEVEL): "loud" is not debug, info, warn or error`,
		`--format: "xml" is not text or json`,
		`--domain: "UPPER" is no trust domain`,
		`--dsn: the kind "mysql" is not supported; right would be sqlite:PATH`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say\n%s\nbut\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("a password is shown: %v", err)
	}
	if t.Failed() {
		return
	}
	if got := strings.Count(err.Error(), "\n") + 1; got != 10 {
		t.Errorf("%d lines for 10 mistakes:\n%v", got, err)
	}
}

func TestParseSaysWhatIsMissing(t *testing.T) {
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", "")
	var got flags
	err := settings.Parse("prog", "Does it.", nil, &bytes.Buffer{}, &got)
	if err == nil || !strings.Contains(err.Error(), "--policy") || !strings.Contains(err.Error(), "prog --help") {
		t.Errorf("a flag that is missing: %v", err)
	}
	err = settings.Parse("prog", "Does it.", []string{"--policy", policyFile(t)}, &bytes.Buffer{}, &got)
	if err == nil || !strings.Contains(err.Error(), "set SPIFFE_ENDPOINT_SOCKET") {
		t.Errorf("a Workload API that is missing: %v", err)
	}
}

func TestParseReportsBadValuesBesideWhatIsMissing(t *testing.T) {
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", "unix:///run/api.sock")
	err := settings.Parse("prog", "Does it.", []string{"--listen=nonsense", "--ttl=soon"}, &bytes.Buffer{}, &flags{})
	if err == nil {
		t.Fatal("it was accepted")
	}
	for _, want := range []string{"--policy", "--listen: \"nonsense\"", "--ttl: \"soon\""} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q but\n%v", want, err)
		}
	}
}

// What a person wrote in place of a DSN may be a password in whole or in part.
func TestADSNThatIsWrongIsNotShown(t *testing.T) {
	t.Parallel()
	for _, dsn := range []settings.DSN{"password=hunter2 host=::1", "hunter2@db:5432/ledger", "postgres:hunter2", "mysql:hunter2"} {
		if err := dsn.Check(); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", dsn, err)
		}
	}
}

func TestTargets(t *testing.T) {
	t.Parallel()
	for target, ok := range map[settings.Target]bool{
		"ledger:8443": true, "dns:///ledger:8443": true, "dns://1.1.1.1/ledger:8443": true, "passthrough:///[::1]:8443": true,
		"unix:///run/ledger.sock": true, "xds:///ledger": true,
		"": false, "ledger": false, "dns:///ledger": false, "dns:///ledger:https": false, ":8443": false, "dns:///": false,
	} {
		if err := target.Check(); (err == nil) != ok {
			t.Errorf("%q: %v", target, err)
		}
	}
}

func TestIssuers(t *testing.T) {
	t.Parallel()
	for issuer, ok := range map[settings.Issuer]bool{
		"https://login.bank.test": true, "https://login.bank.test:8445": true, "https://[::1]:8445": true,
		"": false, "login.bank.test": false, "http://login.bank.test": false, "https://": false, "https://:8445": false, "https://login.bank.test/": false,
		"https://login.bank.test/bank": false, "https://login.bank.test?x": false, "https://login.bank.test#x": false, "https://me@login.bank.test": false,
	} {
		if err := issuer.Check(); (err == nil) != ok {
			t.Errorf("%q: %v", issuer, err)
		}
	}
}

func TestCounts(t *testing.T) {
	t.Parallel()
	for count, want := range map[settings.Count]int{
		"1": 1, "512": 512, "1000000": 1_000_000,
		"": 0, "0": 0, "-1": 0, "1000001": 0, "many": 0, "5.0": 0, "0x10": 0, "1_0": 0, "99999999999999999999": 0,
	} {
		if err := count.Check(); (err == nil) != (want > 0) || count.Value() != want {
			t.Errorf("%q: %d, %v", count, count.Value(), err)
		}
	}
}

func TestParseRefusesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--insecure"}, {"extra"}} {
		err := settings.Parse("prog", "Does it.", args, &bytes.Buffer{}, &flags{})
		if err == nil || !strings.Contains(err.Error(), strings.TrimLeft(args[0], "-")) {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestHelpExplainsEveryFlag(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := settings.Parse("prog", "Does it.", []string{"--help"}, &out, &flags{}); !errors.Is(err, settings.ErrHelp) {
		t.Errorf("Parse = %v, want ErrHelp", err)
	}
	for _, want := range []string{"Does it.", "--workload-api", "SPIFFE_ENDPOINT_SOCKET", "--listen", "PROG_LISTEN", "--policy", "--ttl"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the help does not say %q:\n%s", want, &out)
		}
	}
}
