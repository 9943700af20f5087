package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/pkg/settings"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// place is where an authority of a test lives.
type place struct {
	dir  string
	args []string
}

func newPlace(t *testing.T) place {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "authority") //nolint:usetesting // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	text := fmt.Sprintf("trust_domain: bank.test\nentries:\n  - {spiffe_id: /ledger, selectors: ['unix:path:%s']}\n", executable(t))
	if err := os.WriteFile(dir+"/entries.yaml", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return place{dir: dir, args: []string{
		"--trust-domain=bank.test", "--socket=" + dir + "/api.sock", "--state-dir=" + dir + "/state",
		"--entries=" + dir + "/entries.yaml", "--ops-listen=127.0.0.1:0",
	}}
}

// executable is the path of the program that runs.
func executable(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		t.Fatal(err)
	}
	return self
}

// without returns the arguments but one flag.
func (p place) without(flag string) []string {
	return slices.DeleteFunc(slices.Clone(p.args), func(arg string) bool { return strings.HasPrefix(arg, flag+"=") })
}

// output is what a program under test logs.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// begin runs an authority until stop is called, which returns what run did.
func begin(t *testing.T, logs io.Writer, args ...string) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx, args, io.Discard, logs) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { _ = stop() })
	return stop
}

// fetch gets this process's identity.
func fetch(t *testing.T, p place) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	client, err := workloadapi.New(ctx, workloadapi.WithAddr("unix://"+p.dir+"/api.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for {
		x509Context, err := client.FetchX509Context(ctx)
		if err == nil {
			bundle, ok := x509Context.Bundles.Get(x509Context.DefaultSVID().ID.TrustDomain())
			if !ok {
				return "", errors.New("no bundle")
			}
			return fmt.Sprint(x509Context.DefaultSVID().ID, bundle.X509Authorities()[0].SerialNumber), nil
		}
		if ctx.Err() != nil {
			return "", err
		}
	}
}

// ATTACKS 32, 40: a restart keeps the trust domain alive, and a stop leaves no socket behind.
func TestAnAuthorityServesStopsAndComesBack(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	var before string
	for range 2 {
		stop := begin(t, io.Discard, p.args...)
		got, err := fetch(t, p)
		if err != nil {
			t.Fatal(err)
		}
		if before != "" && got != before {
			t.Errorf("%s after the restart, %s before", got, before)
		}
		before = got
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(p.dir + "/api.sock"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket after the stop: %v", err)
		}
	}
}

func TestReadyMeansServed(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	logs := &output{}
	begin(t, logs, p.args...)
	err := errors.New("it does not log where it can be asked")
	for end := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(end); {
		_, address, _ := strings.Cut(logs.String(), "address=") // port 0 lets the kernel choose
		if address, _, logged := strings.Cut(address, "\n"); logged {
			err = run(t.Context(), []string{"healthcheck", "--ops-listen=" + address}, io.Discard, io.Discard)
		}
	}
	if err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(p.dir + "/api.sock"); err != nil {
		t.Error(err)
	}
}

// It is asked at the same address by default.
func TestHealthcheckAsksWhereTheAuthorityListens(t *testing.T) {
	t.Setenv("AUTHORITY_OPS_LISTEN", "")
	flag, ok := reflect.TypeFor[config]().FieldByName("OpsListen")
	if !ok {
		t.Fatal("there is no flag --ops-listen")
	}
	err := run(t.Context(), []string{"healthcheck", "--timeout=1ns"}, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "http://"+flag.Tag.Get("default")+"/readyz") {
		t.Errorf("it asks somewhere else: %v", err)
	}
}

func TestASecondAuthorityIsRefused(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	begin(t, io.Discard, p.args...)
	if _, err := fetch(t, p); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"on the same state":  {p.args, "another authority is using it"},
		"on the same socket": {append(p.args, "--state-dir="+p.dir+"/other"), "another process is serving it already"},
	} {
		if err := run(t.Context(), test.args, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := fetch(t, p); err != nil {
		t.Errorf("the first does not serve any more: %v", err)
	}
}

// Every bad flag is named, with what would be right.
func TestBadSettingsAreNamed(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	for name, test := range map[string]struct {
		args []string
		want []string
	}{
		"none at all":    {[]string{}, []string{"--trust-domain", "--state-dir", "--entries"}},
		"neither socket": {p.without("--socket"), []string{"--socket, --sockets: both are missing", "--socket=PATH", "--sockets=DIR"}},
		"several": {
			append(p.args, "--trust-domain=BANK", "--svid-ttl=soon", "--ops-listen=x", "--log-level=loud", "--jwt-svid-ttl=x"),
			[]string{"--trust-domain", "--svid-ttl", "--ops-listen", "--log-level", "--jwt-svid-ttl"},
		},
		"lives that do not fit": {
			append(p.args, "--authority-ttl=20s", "--svid-ttl=6s", "--jwt-svid-ttl=1s"),
			[]string{"--svid-ttl: 6s", "2s to 5s", "--jwt-svid-ttl: 1s"},
		},
		"an authority that lives for a moment": {append(p.args, "--authority-ttl=3s"), []string{"--authority-ttl", "8s or more"}},
		"a socket that is an address":          {append(p.args, "--socket=unix:///x"), []string{"--socket", "the path alone"}},
		"another trust domain's entries":       {append(p.args, "--trust-domain=other.test"), []string{"entries.yaml:1:1"}},
		"no entries":                           {append(p.args, "--entries="+p.dir+"/none"), []string{"--entries"}},
	} {
		err := run(t.Context(), test.args, io.Discard, io.Discard)
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: the error is\n%v\nand does not say %q", name, err, want)
			}
		}
	}
	if err := run(t.Context(), []string{"--help"}, io.Discard, io.Discard); !errors.Is(err, settings.ErrHelp) {
		t.Errorf("help: %v", err)
	}
}

// ATTACKS 40.
func TestADamagedStateKeepsTheAuthorityFromStarting(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	stop := begin(t, io.Discard, p.args...)
	if _, err := fetch(t, p); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(p.dir+"/state/authority.json", 100); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), p.args, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "restore the file from a backup") {
		t.Errorf("%v", err)
	}
	if _, err := os.Lstat(p.dir + "/api.sock"); err == nil {
		t.Error("it serves")
	}
}
