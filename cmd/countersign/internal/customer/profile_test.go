package customer_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/customer"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
	"github.com/countersign-mesh/countersign/pkg/userauth/device"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAProfileSaysWhatItLacks(t *testing.T) {
	t.Parallel()
	p, err := customer.OpenProfile(t.TempDir(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Device(); !errors.Is(err, customer.ErrNotEnrolled) {
		t.Errorf("without a device: %v", err)
	}
	if _, _, err := p.Session(customer.Bank{}); !errors.Is(err, customer.ErrNotEnrolled) {
		t.Errorf("without a session or a device: %v", err)
	}
	if err := p.LoggedOut(); err != nil {
		t.Errorf("nobody was logged in: %v", err)
	}
}

func TestAProfileIsItsOwnersAlone(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	p, err := customer.OpenProfile(parent, "alice")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Prepare(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(parent, "alice")
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	codes := p.Codes("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ")
	if _, err := codes.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Used(codes); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "profile.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	again, err := customer.OpenProfile(parent, "alice")
	if err != nil || again.Codes("").Last != codes.Last {
		t.Errorf("the codes that were used are not remembered: %v", err)
	}
	if err := os.Chmod(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if _, err := customer.OpenProfile(parent, "alice"); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("one that others may read: %v", err)
	}
	if err := p.Prepare(); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("and before there is a key in it: %v", err)
	}
}

func TestNamesOfProfilesAreNoPaths(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", ".", "..", "a/b", "../alice", "Alice", "-a", strings.Repeat("a", 64)} {
		if customer.CheckName(name) == nil {
			t.Errorf("%q was taken", name)
		}
	}
	if err := customer.CheckName("alice-2.phone_b"); err != nil {
		t.Error(err)
	}
}

func TestARefusalComesWithWhatToDo(t *testing.T) {
	t.Parallel()
	refused := func(reason string) error {
		s, err := status.New(codes.Unauthenticated, "not good").WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "countersign"})
		if err != nil {
			t.Fatal(err)
		}
		return s.Err()
	}
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"nothing enrolled": {customer.ErrNotEnrolled, "bank enrol --username NAME"},
		"something there":  {customer.ErrEnrolled, "--profile NAME"},
		"logged out":       {customer.ErrLoggedOut, "bank login"},
		"too often":        {&device.Error{Code: "slow_down", Status: 429, RetryAfter: 7 * time.Second}, "try again in 7s"},
		"a wrong password": {&device.Error{Code: "invalid_grant", Status: 400}, "or the one-time code is wrong"},
		"a revoked device": {&device.Error{Code: "invalid_client", Status: 401}, "enrol another one"},
		"a session's end":  {refused(customer.ReasonInvalidToken), "log in again with: bank login"},
		"a large payment":  {refused(customer.ReasonStepUp), "bank login --otp CODE"},
		"without advice":   {refused("DENIED"), "UNAUTHENTICATED: not good"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := customer.Advise(test.err, "bank")
			if !errors.Is(got, test.err) || !strings.Contains(got.Error(), test.want) {
				t.Errorf("%v, want %q in it", got, test.want)
			}
		})
	}
	if customer.Advise(nil, "") != nil {
		t.Error("there was no error")
	}
}

func TestABankWithoutARootIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := customer.At(rundir.Edge{Root: filepath.Join(t.TempDir(), "root.pem")}); err == nil || !strings.Contains(err.Error(), "by whom the edge is verified") {
		t.Errorf("the error is %v", err)
	}
}
