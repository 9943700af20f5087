package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAPortInUseIsNamedWithItsHolder(t *testing.T) {
	t.Parallel()
	taken, err := reserve(t.Context(), 0, offsets(embedded{}))
	if err != nil {
		t.Fatal(err)
	}
	base := taken.ports[0]
	_, err = reserve(t.Context(), base, offsets(embedded{}))
	if !errors.Is(err, ErrPortInUse) {
		t.Fatalf("the error is %v", err)
	}
	want := []string{fmt.Sprintf("--base-port: port %d (ledger) is in use", base+3), "choose others with --base-port"}
	if runtime.GOOS == "linux" {
		want = append(want, fmt.Sprintf("by process %d (", os.Getpid()))
	}
	for _, want := range want {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %q and lacks %q", err, want)
		}
	}
	if err := taken.release(); err != nil {
		t.Error(err)
	}
}

// Not parallel: another test of this process could take the port meanwhile.
func TestPortsOfARefusedReservationAreFreeAgain(t *testing.T) {
	taken, err := reserve(t.Context(), 0, offsets(embedded{}))
	if err != nil {
		t.Fatal(err)
	}
	base, last := taken.ports[0], taken.listeners[len(taken.listeners)-1]
	taken.listeners = taken.listeners[:len(taken.listeners)-1]
	if err := taken.release(); err != nil {
		t.Fatal(err)
	}
	if _, err := reserve(t.Context(), base, offsets(embedded{})); !errors.Is(err, ErrPortInUse) {
		t.Errorf("the error is %v", err)
	}
	if by, ok := holder(base); ok && strings.Contains(by, fmt.Sprintf("process %d ", os.Getpid())) {
		t.Errorf("port %d is still held by %s", base, by)
	}
	if err := last.Close(); err != nil {
		t.Error(err)
	}
}

func TestEveryProgramHasPortsOfItsOwn(t *testing.T) {
	t.Parallel()
	for _, s := range []Settings{{Dir: tempDir(t)}, {Dir: tempDir(t), SPIRE: true}} {
		ports := make(map[int]int)
		for offset := range offsets(s.issuer()) {
			ports[offset] = 7443 + offset
		}
		seen := make(map[string]string)
		for _, p := range programs(s, "bank.test", "/api.sock", ports) {
			for _, address := range append(p.Doors, p.Address, p.OpsAddress) {
				if other, ok := seen[address]; ok && address != "" {
					t.Errorf("%s has %s, and so has %s", p.Name, address, other)
				}
				seen[address] = p.Name
			}
		}
		want := map[string]string{
			"127.0.0.1:7443": "gateway", "127.0.0.1:7446": "ledger", "127.0.0.1:7548": "audit", "127.0.0.1:7449": "login", "127.0.0.1:7549": "login", "127.0.0.1:7453": "gateway",
			"127.0.0.1:7454": "gateway", "127.0.0.1:7455": "login", "127.0.0.1:7563": "authority",
		}
		if s.SPIRE {
			want["127.0.0.1:7563"], want["127.0.0.1:7564"] = "spire-server", "spire-agent"
			want["127.0.0.1:7463"] = "" // which its agent alone is told of
		}
		for address, want := range want {
			if seen[address] != want {
				t.Errorf("%s has %s, want %s", address, seen[address], want)
			}
		}
	}
}

func TestWhereServicesKeepTheirState(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	for dsn, want := range map[string]map[string]string{
		"": {"accounts": "file", "payments": "file", "ledger": "file", "risk": "file", "login": "file", "audit": "file"},
		"postgres://bank:secret@db/bank_{service}?sslmode=verify-full&application_name={service}": {
			"accounts": "ACCOUNTS_DSN=postgres://bank:secret@db/bank_accounts?sslmode=verify-full&application_name=accounts",
			"payments": "PAYMENTS_DSN=postgres://bank:secret@db/bank_payments?sslmode=verify-full&application_name=payments",
			"ledger":   "LEDGER_DSN=postgres://bank:secret@db/bank_ledger?sslmode=verify-full&application_name=ledger",
			"risk":     "RISK_DSN=postgres://bank:secret@db/bank_risk?sslmode=verify-full&application_name=risk",
			"login":    "LOGIN_DSN=postgres://bank:secret@db/bank_login?sslmode=verify-full&application_name=login",
			"audit":    "file", // audit verify reads it
		},
	} {
		for _, p := range programs(Settings{Dir: dir, DSN: dsn}, "bank.test", "/api.sock", map[int]int{}) {
			got := ""
			if slices.Contains(p.Args, "--dsn=sqlite:"+filepath.Join(dir.Data(), p.Name+".db")) {
				got = "file"
			}
			for _, variable := range p.Env {
				if strings.Contains(variable, "_DSN=") {
					got += variable
				}
			}
			if got != want[p.Name] {
				t.Errorf("%q: %s keeps its state in %q, want %q", dsn, p.Name, got, want[p.Name])
			}
			if strings.Contains(strings.Join(p.Args, " "), "secret") {
				t.Errorf("everybody on the machine sees the password: %q", p.Args)
			}
		}
	}
}

// The DSN of the bank may hold a password, which is not for programs that keep no state.
func TestNoProgramInheritsTheDSNOfTheBank(t *testing.T) {
	t.Setenv("COUNTERSIGN_DSN", "postgres://bank:secret@db/{service}")
	t.Setenv("COUNTERSIGN_PASSWORD", "a secret of a customer's")
	t.Setenv("COUNTERSIGN_OTP_SECRET", "another secret")
	t.Setenv("COUNTERSIGN_OTHER", "kept")
	inherited := strings.Join(environment(), "\n")
	if strings.Contains(inherited, "secret") || !strings.Contains(inherited, "COUNTERSIGN_OTHER=kept") {
		t.Errorf("a program inherits\n%s", inherited)
	}
}

func TestADSNThatCannotBeRightIsRefused(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]string{
		"":                               "",
		"postgres://localhost/{service}": "",
		"sqlite:/tmp/{service}.db":       "",
		"postgres://bank:secret@db/bank": "{service}",
		// All services would share the one database.
		"postgres://{service}@db/bank":                       "a part of its name",
		"postgres://bank@db/bank?application_name={service}": "a part of its name",
		"mysql://bank:secret@{service}":                      "mysql",
		"{service}":                                          "kind",
	} {
		err := Settings{DSN: dsn}.checkDSN()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q in it", dsn, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

func TestNobodyStopsBeforeThoseWhoCallIt(t *testing.T) {
	t.Parallel()
	tiers := make(map[string]int)
	for _, s := range services() {
		tiers[s.name] = s.tier
	}
	for _, s := range services() {
		if s.name != "audit" && s.tier <= tiers["audit"] {
			t.Errorf("%s, tier %d, may outlive audit, tier %d", s.name, s.tier, tiers["audit"])
		}
		for _, callee := range s.calls {
			if tiers[callee] >= s.tier {
				t.Errorf("%s, tier %d, calls %s, tier %d", s.name, s.tier, callee, tiers[callee])
			}
		}
	}
}

func TestAServiceDrainsBeforeItsTierIsKilled(t *testing.T) {
	t.Parallel()
	for _, p := range programs(Settings{Dir: tempDir(t), StopTimeout: 35 * time.Second}, "bank.test", "/api.sock", map[int]int{}) {
		if got := strings.Contains(strings.Join(p.Args, " "), "--drain-timeout=2s"); got != (p.Tier > 0) {
			t.Errorf("%s is told to drain for two fifths of 35s/7: %v; its arguments are %q", p.Name, got, p.Args)
		}
	}
}

func TestSettingsReportAllThatIsMissing(t *testing.T) {
	t.Parallel()
	bin := filepath.Join(t.TempDir(), "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := Prepare(t.Context(), Settings{Dir: tempDir(t), Bin: bin, BasePort: 65500})
	if err == nil {
		t.Fatal("it was accepted")
	}
	for _, want := range []string{"--policy: ", "--registration: ", "--risk-rules: ", "--base-port: 65500 is not", "make build", "actors/gateway-burglar", `"authority"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
}

func TestSPIREThatIsMissingOrCannotKeepTheLifetimesIsSaid(t *testing.T) {
	t.Parallel()
	bin := filepath.Join(t.TempDir(), "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	s := Settings{Dir: tempDir(t), Bin: bin, SPIRE: true, SPIREBin: bin, SVIDTTL: time.Minute}
	_, err := Prepare(t.Context(), s)
	if err == nil {
		t.Fatal("it was accepted")
	}
	for _, want := range []string{"no spire-server on " + bin, "no spire-agent on " + bin, "--spire-bin"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), `"authority"`) {
		t.Errorf("the embedded authority is missed, which SPIRE takes the place of:\n%v", err)
	}
	s.AuthorityTTL = 2 * time.Minute
	if _, err := Prepare(t.Context(), s); err == nil || !strings.Contains(err.Error(), "--authority-ttl: 2m0s is too short for SPIRE") {
		t.Errorf("an authority that lives shorter than what it signs: %v", err)
	}
}

func TestTheExpiryIsFoundAmongMetrics(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		metrics string
		want    int64
	}{
		"a gauge":                 {expiryMetric + " 1.8e+09\n", 1_800_000_000},
		"with labels":             {expiryMetric + `{id="spiffe://bank.test/a b"} 1800000000.5` + "\n", 1_800_000_000},
		"after a longer name":     {expiryMetric + "_total 7\n" + expiryMetric + " 9\n", 9},
		"nothing":                 {"go_goroutines 7\n", 0},
		"no number":               {expiryMetric + " soon\n", 0},
		"infinite":                {expiryMetric + " +Inf\n", 0},
		"zero: there is no SVID":  {expiryMetric + " 0\n", 0},
		"the help line, not more": {"# HELP " + expiryMetric + " When.\n", 0},
		"a name without a value":  {expiryMetric + "\n", 0},
		"labels without a value":  {expiryMetric + "{} \n", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, ok := parseExpiry(test.metrics)
			if ok != (test.want != 0) || (ok && got.Unix() != test.want) {
				t.Errorf("got %v, %v, want %v", got.Unix(), ok, test.want)
			}
		})
	}
}

func TestOutputIsCutIntoLines(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.log")
	if err := os.WriteFile(path, []byte("earlier run"), 0o600); err != nil {
		t.Fatal(err)
	}
	var got []string
	out, err := newOutput(path, func(line string) { got = append(got, line) })
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"one\ntw", "o\r\n\nlong" + strings.Repeat("x", maxLine), "rest\nunfinished"} {
		if _, err := out.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.close(); err != nil {
		t.Fatal(err)
	}
	want := []string{"one", "two", "", "long" + strings.Repeat("x", maxLine), "rest", "unfinished"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the lines differ (-want +got):\n%s", diff)
	}
	if old, err := os.ReadFile(path + ".old"); string(old) != "earlier run" {
		t.Errorf("the log of the earlier run: %q, %v", old, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the log's mode: %v, %v", info.Mode(), err)
	}
}

func TestOnlyTheLastLinesAreKept(t *testing.T) {
	t.Parallel()
	out, err := newOutput(filepath.Join(t.TempDir(), "x.log"), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * keptLines {
		_, _ = fmt.Fprintln(out, i)
	}
	last := out.lastLines()
	if len(last) != keptLines || last[keptLines-1] != fmt.Sprint(3*keptLines-1) {
		t.Errorf("kept %q", last)
	}
	if err := out.close(); err != nil {
		t.Error(err)
	}
}

func TestTheAuthorityIsToldItsLifetimes(t *testing.T) {
	t.Parallel()
	args := strings.Join(authorityArgs(Settings{Dir: tempDir(t), SVIDTTL: 2 * time.Minute}, "bank.test", "/s", "127.0.0.1:1"), " ")
	if !strings.Contains(args, "--svid-ttl=2m0s") || strings.Contains(args, "--authority-ttl") {
		t.Errorf("the arguments are %s", args)
	}
}
