package main

import (
	"bytes"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/pkg/identity"
)

func TestRevokeSparesTheOneWhoCalls(t *testing.T) {
	t.Parallel()
	b := newBank(t, "ledger")
	before := b.text(t)
	for name, args := range map[string][]string{
		"its SPIFFE ID":     {"--id=/operator"},
		"its serial number": {"--serial=" + b.Identity(t, "/operator").Status().Serial},
		"its authority":     {"--authority=" + identity.AuthorityOf(b.CA().Bundle().X509Authorities()[0])},
	} {
		_, err := b.countersign(t, append([]string{"revoke"}, args...)...)
		flag, _, _ := strings.Cut(args[0], "=")
		if err == nil || !strings.Contains(err.Error(), flag+": ") || !strings.Contains(err.Error(), "add --force") || b.text(t) != before {
			t.Errorf("%s: %v", name, err)
		}
	}
	out, err := b.countersign(t, "revoke", "--id=/operator", "--force")
	if !errors.Is(err, errNotHeeded) || !strings.Contains(err.Error(), "ledger: ") || exitCode(err) != 1 || !strings.Contains(b.text(t), "- id: /operator\n") {
		t.Errorf("with --force: %v\n%s", err, out)
	}
}

// A chain may have more authorities in it than the one at its end.
func TestRevokeSparesTheOneWhoCallsByWayOfAnIntermediate(t *testing.T) {
	t.Parallel()
	b := newBank(t, "ledger")
	below := b.CA().Intermediate(t)
	svid := below.SVID(t, "/operator")
	api := b.API(t, "/operator")
	changed := b.Identity(t, "/operator").Changed()
	api.Grant(t, svid, b.CA().Bundle())
	<-changed
	_, err := b.countersign(t, "revoke", "--authority", identity.AuthorityOf(svid.Certificates[1]))
	if err == nil || !strings.Contains(err.Error(), "add --force") {
		t.Errorf("the error is %v", err)
	}
}

// An authority that is down is no reason to put up with a workload that was broken into.
func TestRevokeIsWrittenAlsoWhenNobodyCanBeAsked(t *testing.T) {
	t.Parallel()
	b := newBank(t, "ledger")
	b.API(t, "/operator").Stop()
	out, warnings, err := b.warned(t, "revoke", "--id=/risk")
	if !strings.Contains(warnings, "warning: this process's own identity is not known") {
		t.Errorf("the warning is %q", warnings)
	}
	if err == nil || !strings.Contains(err.Error(), "no service could be asked") || !strings.Contains(b.text(t), "- id: /risk\n") {
		t.Errorf("%v:\n%s", err, out)
	}
	b.API(t, "/operator").Start(t)
}

// silence is a Workload API that takes connections and never answers. begun is called at the first.
func silence(t *testing.T, begun func()) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "s") //nolint:usetesting // its path may be longer than the name of a socket can be
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "api.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	var first sync.Once
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			first.Do(begun)
			serving.Go(func() {
				_, _ = io.Copy(io.Discard, conn) // until the caller gives up
				_ = conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return "unix://" + path
}

func TestRevokeDoesNotWaitForAWorkloadAPIThatHangs(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args  []string
		first bool // whether the file is written before the Workload API is asked
	}{
		"it is asked for a second at most":          {[]string{"revoke", "--id=/risk"}, false},
		"it is asked after the write, with --force": {[]string{"revoke", "--id=/risk", "--force"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBank(t, "ledger")
			var written atomic.Bool
			socket := silence(t, func() {
				text, err := os.ReadFile(b.policy)
				written.Store(err == nil && strings.Contains(string(text), "- id: /risk\n"))
			})
			begin := time.Now()
			out, warnings, err := b.warned(t, append(test.args, "--socket", socket)...)
			if err == nil || !strings.Contains(err.Error(), "the revocation is written, but no service could be asked") {
				t.Fatalf("%v:\n%s", err, out)
			}
			if written.Load() != test.first || strings.Contains(warnings, "was not checked") == test.first {
				t.Errorf("when the Workload API was asked, written: %v; then: %s", written.Load(), warnings)
			}
			info, err := os.Stat(b.policy)
			if err != nil {
				t.Fatal(err)
			}
			// A second is what is promised, three are what a command waits that can do nothing without an identity.
			if took := info.ModTime().Sub(begin); !strings.Contains(b.text(t), "- id: /risk\n") || took >= 3*time.Second {
				t.Errorf("it was written after %v", took)
			}
		})
	}
}

// The identity may go away between the moment that it is opened and the one that it is looked at.
func TestRevokeLetsPassWhatAnIdentityThatIsGoneCannotTell(t *testing.T) {
	t.Parallel()
	b := newBank(t, "ledger")
	self, err := dial.Open(t.Context(), b.API(t, "/operator").Addr(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := self.Close(); err != nil {
			t.Error(err)
		}
	}()
	serial := self.Status().Serial
	check := func(what identity.Revocation) (string, error) {
		var errs bytes.Buffer
		err := spared(t.Context(), &session{err: console.New(&errs, nil)}, self, nil, what)
		return errs.String(), err
	}
	if _, err := check(identity.Revocation{Serial: serial}); err == nil {
		t.Error("its own serial number is let pass")
	}
	b.API(t, "/operator").Fail(status.Error(codes.PermissionDenied, "withdrawn"))
	for changed := self.Changed(); self.Status().State != identity.StateWithdrawn; changed = self.Changed() {
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			t.Fatal("the identity is not withdrawn")
		}
	}
	warnings, err := check(identity.Revocation{Serial: serial})
	if err != nil || !strings.Contains(warnings, "warning: this process's own identity is not known") {
		t.Errorf("once it is withdrawn: %v, with %q", err, warnings)
	}
}

// A serial number is unique per issuer only (RFC 5280 §4.1.2.2).
func TestRevokeOfASerialNumberThatSeveralHaveAsksForForce(t *testing.T) {
	t.Parallel()
	b := newBank(t, "ledger", "audit")
	same := func(cert *x509.Certificate) { cert.SerialNumber = big.NewInt(0x4f3a19) }
	for from, to := range map[string]string{"/risk": "ledger", "/payments": "audit"} {
		b.Identity(t, from)
		b.Rotate(t, from, same)
		b.connect(t, from, to)
	}
	before := b.text(t)
	_, err := b.countersign(t, "revoke", "--serial=4f3a19")
	if err == nil || b.text(t) != before {
		t.Fatalf("the error is %v", err)
	}
	for _, want := range []string{`"spiffe://bank.test/payments", says audit`, `"spiffe://bank.test/risk", says ledger`, "add --force"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %s:\n%v", want, err)
		}
	}
	out, err := b.countersign(t, "revoke", "--serial=4f3a19", "--force")
	if err != nil || !strings.Contains(out, "Connections that were cut: 2\n") {
		t.Errorf("with --force, %v:\n%s", err, out)
	}
}
