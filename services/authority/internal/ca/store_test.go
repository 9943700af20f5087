package ca

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// founded returns the directory of an authority that was closed in good order, and its bundle.
func founded(t testing.TB) (dir string, bundle []byte) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "state")
	c, err := Open(dir, bankConfig(), WithClock(newClock().Now), WithLogger(quiet()))
	if err != nil {
		t.Fatal(err)
	}
	bundle = c.X509Bundle()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, bundle
}

func reopen(dir string) (*CA, error) {
	return Open(dir, bankConfig(), WithClock(newClock().Now), WithLogger(quiet()))
}

// ATTACKS 40: a restart keeps the trust domain alive.
func TestARestartKeepsTheAuthorities(t *testing.T) {
	t.Parallel()
	dir, bundle := founded(t)
	c, err := reopen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if !bytes.Equal(bundle, c.X509Bundle()) {
		t.Error("the bundle is another one")
	}
	issued := issue(t, c, Request{ID: ledger})
	if err := verifies(t, issued.SVIDs[0].Certificates, bundle, newClock().Now()); err != nil {
		t.Errorf("who held the bundle before does not believe what is signed after: %v", err)
	}
}

// ATTACKS 40: never a silent new root. Each case fails to open, says what to do, and leaves the file as it is.
func TestADamagedStateIsAnError(t *testing.T) {
	t.Parallel()
	dir, _ := founded(t)
	good, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		t.Fatal(err)
	}
	flip := func(at int) []byte {
		text := bytes.Clone(good)
		text[at] ^= 1
		return text
	}
	cases := map[string][]byte{
		"empty":             {},
		"cut in half":       good[:len(good)/2],
		"cut at the end":    good[:len(good)-3],
		"zeros":             make([]byte, len(good)),
		"another file":      []byte("trust_domain: bank.test\n"),
		"something after":   append(bytes.Clone(good), "{}"...),
		"the next version":  bytes.Replace(good, []byte(`"version":1`), []byte(`"version":2`), 1),
		"an unknown field":  bytes.Replace(good, []byte(`{"format"`), []byte(`{"x":1,"format"`), 1),
		"another's entries": bytes.Replace(good, []byte(`"active"`), []byte(`"old"`), 1),
	}
	for at := 0; at < len(good)-1; at += 37 {
		cases[fmt.Sprintf("a bit flipped in byte %d", at)] = flip(at)
	}
	for name, text := range cases {
		path := filepath.Join(dir, stateFile)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := reopen(dir)
		if err == nil {
			_ = c.Close()
			t.Errorf("%s: it was opened", name)
			continue
		}
		for _, want := range []string{path, "restore the file from a backup"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not say %q", name, err, want)
			}
		}
		if left, err := os.ReadFile(path); err != nil || !bytes.Equal(left, text) {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

// ATTACKS 40: the file is gone.
func TestALostStateIsAnError(t *testing.T) {
	t.Parallel()
	dir, _ := founded(t)
	if err := os.Remove(filepath.Join(dir, stateFile)); err != nil {
		t.Fatal(err)
	}
	_, err := reopen(dir)
	if err == nil || !strings.Contains(err.Error(), "the file is gone") || !strings.Contains(err.Error(), dir) {
		t.Errorf("%v, want an error that names the directory", err)
	}
}

func TestAStateOfAnotherTrustDomainIsAnError(t *testing.T) {
	t.Parallel()
	dir, _ := founded(t)
	config := bankConfig()
	config.TrustDomain = spiffeid.RequireTrustDomainFromString("other.test")
	for _, remove := range []string{"", markerFile} { // the state itself knows too
		if remove != "" {
			if err := os.Remove(filepath.Join(dir, remove)); err != nil {
				t.Fatal(err)
			}
		}
		_, err := Open(dir, config, WithLogger(quiet()))
		if err == nil || !strings.Contains(err.Error(), `"bank.test", not "other.test"`) {
			t.Errorf("without %q: %v", remove, err)
		}
	}
}

func TestAFirstStartThatWasCutShortGoesOn(t *testing.T) {
	t.Parallel()
	dir, bundle := founded(t)
	if err := os.Remove(filepath.Join(dir, markerFile)); err != nil { // written after the state
		t.Fatal(err)
	}
	temp := filepath.Join(dir, tempPrefix+"123")
	if err := os.WriteFile(temp, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := reopen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if !bytes.Equal(bundle, c.X509Bundle()) {
		t.Error("the bundle is another one")
	}
	if _, err := os.Stat(temp); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the unfinished file, with a key in it, is still there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, markerFile)); err != nil {
		t.Errorf("the marker: %v", err)
	}
}

// ATTACKS 32: only the authority's key is on disk, and only its user can read it.
func TestTheStateIsPrivate(t *testing.T) {
	t.Parallel()
	dir, _ := founded(t)
	for path, want := range map[string]fs.FileMode{dir: 0o700, filepath.Join(dir, stateFile): 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", path, got, want)
		}
	}
	for path, mode := range map[string]fs.FileMode{dir: 0o750, filepath.Join(dir, stateFile): 0o640} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := reopen(dir); err == nil || !strings.Contains(err.Error(), "chmod") {
			t.Errorf("%s with mode %o: %v", path, mode, err)
		}
		if err := os.Chmod(path, info.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestASymlinkInPlaceOfTheStateIsRefused(t *testing.T) {
	t.Parallel()
	dir, _ := founded(t)
	path := filepath.Join(dir, stateFile)
	moved := filepath.Join(t.TempDir(), "moved")
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(moved, path); err != nil {
		t.Fatal(err)
	}
	if _, err := reopen(dir); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("%v", err)
	}
}

func TestTwoAuthoritiesDoNotShareAState(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	open(t, dir, bankConfig(), newClock().Now)
	if _, err := reopen(dir); err == nil || !strings.Contains(err.Error(), "another authority is using it") {
		t.Errorf("%v", err)
	}
}

// A state that cannot be written changes nothing: nothing is published or signed that a restart would not know.
func TestARotationThatCannotBeSavedDoesNotHappen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 24*time.Hour, time.Hour)
	before := w.ca.X509Bundle()
	if err := os.Rename(w.dir, w.dir+".away"); err != nil {
		t.Fatal(err)
	}
	w.clock.Advance(13 * time.Hour)
	if err := w.ca.Rotate(); err == nil {
		t.Error("the rotation did not fail")
	}
	if !bytes.Equal(before, w.ca.X509Bundle()) {
		t.Error("a bundle was published that was not saved")
	}
	if _, err := w.ca.IssueX509(Request{ID: ledger, TTL: 2 * time.Hour}); err == nil {
		t.Error("a longer life was given than the state knows of")
	}
	if err := os.Rename(w.dir+".away", w.dir); err != nil {
		t.Fatal(err)
	}
	if err := w.ca.Rotate(); err != nil {
		t.Errorf("it does not recover: %v", err)
	}
}

// ATTACKS 32: no private key in any log.
func TestNoKeyIsLogged(t *testing.T) {
	t.Parallel()
	var logged bytes.Buffer
	clk := newClock()
	c, err := Open(filepath.Join(t.TempDir(), "state"), bankConfig(), WithClock(clk.Now),
		WithLogger(slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 10 {
		clk.Advance(5 * time.Hour)
		if err := c.Rotate(); err != nil {
			t.Fatal(err)
		}
		for _, key := range append(c.rings.X509, c.rings.JWT...) {
			der, err := x509.MarshalPKCS8PrivateKey(key.Key)
			if err != nil {
				t.Fatal(err)
			}
			scalar, err := key.Key.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			secrets := []string{
				new(big.Int).SetBytes(scalar).String(), hex.EncodeToString(scalar), base64.StdEncoding.EncodeToString(der), string(scalar),
			}
			for _, secret := range secrets {
				if strings.Contains(logged.String(), secret) {
					t.Fatal("a private key was logged")
				}
			}
		}
	}
	if logged.Len() == 0 {
		t.Error("nothing was logged: the test shows nothing")
	}
}

func TestOpenRefusesLivesThatDoNotFit(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Config){
		"no trust domain":                func(c *Config) { c.TrustDomain = spiffeid.TrustDomain{} },
		"SVIDs of a second":              func(c *Config) { c.SVIDTTL = time.Second },
		"SVIDs of two days":              func(c *Config) { c.SVIDTTL, c.AuthorityTTL = 48*time.Hour, 480*time.Hour },
		"SVIDs over a quarter of a key":  func(c *Config) { c.SVIDTTL = 7 * time.Hour },
		"tokens over a quarter of a key": func(c *Config) { c.JWTTTL = 7 * time.Hour },
	} {
		config := bankConfig()
		change(&config)
		dir := filepath.Join(t.TempDir(), "state")
		if _, err := Open(dir, config, WithLogger(quiet())); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: a state was made", name)
		}
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	c := newCA(t, bankConfig(), newClock().Now)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Run(ctx); err != nil {
		t.Error(err)
	}
}
