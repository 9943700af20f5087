package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policyfile"
	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
)

// listing is the rule that lets the operator list connections.
const listing = `      ListConnections:
        allow:
          - peer: /operator
            why: sees who is connected, and with which SVID
`

// writeNew writes a file with the policy of a bank, changed.
func writeNew(t *testing.T, b *bank, change func(string) string) (path string) {
	t.Helper()
	before := b.text(t)
	after := change(before)
	if after == before {
		t.Fatal("the new policy is the old one")
	}
	path = filepath.Join(t.TempDir(), "new.yaml")
	if err := os.WriteFile(path, []byte(after), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func without(part string) func(string) string {
	return func(text string) string {
		return strings.Replace(text, part, "      ListConnections: {allow: []}\n", 1)
	}
}

// calling has a workload call a method of a service over and over, until the test ends.
func (b *bank) calling(t *testing.T, from, to string, call func(context.Context, adminv1.AdminServiceClient) error) {
	t.Helper()
	client := adminv1.NewAdminServiceClient(b.Dial(t, from, "/"+to, b.address(t, to)))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for ctx.Err() == nil {
			if err := call(ctx, client); err != nil && status.Code(err) != codes.PermissionDenied && ctx.Err() == nil {
				t.Errorf("%s calls %s: %v", from, to, err)
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

func listConnections(ctx context.Context, client adminv1.AdminServiceClient) error {
	_, err := client.ListConnections(ctx, &adminv1.ListConnectionsRequest{PageSize: 1})
	return err
}

// beside are the files beside the policy file.
func (b *bank) beside(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob(b.policy + ".*")
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func TestApplyPutsTheOldPolicyBackWhenAPermissionIsUsedThatTheNewOneLacks(t *testing.T) {
	t.Parallel()
	b, _ := newAuditedBank(t, "ledger")
	b.calling(t, "/operator", "ledger", listConnections)
	before := b.text(t)
	begin := time.Now()
	out, err := b.countersign(t, "policy", "apply", writeNew(t, b, without(listing)), "--yes", "--watch=1m")
	if !errors.Is(err, errRolledBack) || exitCode(err) != 1 {
		t.Fatalf("the error is %v:\n%s", err, out)
	}
	t.Logf("put back after %v:\n%s", time.Since(begin), out)
	for _, want := range []string{
		`\nmesh\.admin\.v1\.AdminService\n  - /operator loses ListConnections\n`,
		`\nThe old policy is kept in \S+/bank\.yaml\.before-[0-9a-f]{16}\. To put it back by hand: mv \S+ \S+/bank\.yaml\n`,
		`\nPutting the old policy back: calls were denied that were let in before\.\n`,
		`\nThe old policy is back at 2 of 2 services, policy [0-9a-f]{16}, after \d+ ms\.\n`,
		`\n  spiffe://bank\.test/operator +/mesh\.admin\.v1\.AdminService/ListConnections +\d+ +[0-9a-f]{32}\n`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("nothing in it matches %s:\n%s", want, out)
		}
	}
	if b.text(t) != before || len(b.beside(t)) > 0 {
		t.Errorf("beside the file there are %v, and it is\n%s", b.beside(t), b.text(t))
	}
}

func TestApplyKeepsAPolicyThatDeniesWhatWasDeniedBefore(t *testing.T) {
	t.Parallel()
	b, _ := newAuditedBank(t, "ledger")
	b.Identity(t, "/risk")
	b.calling(t, "/risk", "ledger", listConnections)
	before, path := b.text(t), writeNew(t, b, without(listing))
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out, err := b.countersign(t, "policy", "apply", path, "--yes", "--watch=1s")
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	found := regexp.MustCompile(`The new policy stays. To go back to the old one: countersign policy apply (\S+)\n`).FindStringSubmatch(out)
	seen := regexp.MustCompile(`\n([1-9]\d*) decisions by the new policy were seen\.\n`).FindString(out)
	if found == nil || seen == "" || b.text(t) != string(after) {
		t.Fatalf("it does not stay:\n%s", out)
	}
	if kept, err := os.ReadFile(found[1]); err != nil || string(kept) != before {
		t.Errorf("%s does not have the old policy (%v)", found[1], err)
	}
	if out, err := b.countersign(t, "policy", "apply", found[1], "--yes", "--no-watch"); err != nil || b.text(t) != before {
		t.Errorf("and back: %v\n%s", err, out)
	}
}

// What is wrong is found before anything is written.
func TestApplyWritesNothing(t *testing.T) {
	t.Parallel()
	b, _ := newAuditedBank(t, "ledger")
	if out, err := b.countersign(t, "revoke", "--id=/mallory"); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	before := b.text(t)
	table := filepath.Join(t.TempDir(), "table.yaml")
	if err := os.WriteFile(table, []byte("cases:\n  - {peer: /operator, method: mesh.admin.v1.AdminService/ListConnections, want: allowed}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	replace := func(old, with string) func(string) string {
		return func(text string) string { return strings.Replace(text, old, with, 1) }
	}
	for name, test := range map[string]struct {
		change func(string) string
		args   []string
		answer string
		want   string // of the error
		out    string
	}{
		"of a file that is no policy":             {replace("trust_domain: bank.test", "trust_domain: [bank.test"), []string{"--yes"}, "", "new.yaml, as if it stood in the place of", ""},
		"of a policy that lacks a method":         {replace("      ListConnections:\n", "      ListConnection:\n"), []string{"--yes"}, "", "the method ListConnections of mesh.admin.v1.AdminService has no rules", ""},
		"of one that does not pass the tests":     {without(listing), []string{"--yes", "--tests", table}, "", "table.yaml:2:5: /operator mesh.admin.v1.AdminService/ListConnections allowed: it is decided otherwise: want allowed, is denied", ""},
		"of one that takes a revocation back":     {replace("  - id: /mallory\n", "  - id: /malory\n"), []string{"--yes"}, "", "lacks 1 of the revocations of " + b.policy, ""},
		"of one that takes itself the right away": {replace("GetPolicy:\n        allow:\n          - peer: /operator\n            why: sees a change of this file arrive", "GetPolicy: {allow: []}"), []string{"--yes"}, "", "does not let spiffe://bank.test/operator call /mesh.admin.v1.AdminService/GetPolicy", ""},
		"when that is all that is asked":          {without(listing), []string{"--dry-run"}, "", "", "\n  - /operator loses ListConnections\n"},
		"when it is not confirmed":                {without(listing), nil, "n\n", "it was not confirmed", "Put it in place? [y/N] "},
		"when nobody answers":                     {without(listing), nil, "", "it was not confirmed", ""},
		"when it could not be watched":            {without(listing), []string{"--yes", "--audit=ledger", "--expect=/ledger"}, "", "could not be watched", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"policy", "apply", writeNew(t, b, test.change)}, test.args...)
			out, _, err := b.answering(t, strings.NewReader(test.answer), args...)
			if (err != nil) != (test.want != "") || err != nil && !strings.Contains(err.Error(), test.want) || !strings.Contains(out, test.out) {
				t.Errorf("the error is %v, want %q:\n%s", err, test.want, out)
			}
			if b.text(t) != before {
				t.Errorf("the file is now\n%s", b.text(t))
			}
		})
	}
	t.Cleanup(func() {
		if len(b.beside(t)) > 0 {
			t.Errorf("beside the file there are %v", b.beside(t))
		}
	})
}

// reader answers by a function.
type reader func() string

func (r reader) Read(p []byte) (int, error) { return copy(p, r()), io.EOF }

// The table of tests that stands beside the new file is run without being named.
func TestApplyRunsTheTableBesideTheNewPolicy(t *testing.T) {
	t.Parallel()
	b, _ := newAuditedBank(t, "ledger")
	path := writeNew(t, b, without(listing))
	table := strings.TrimSuffix(path, ".yaml") + "_test.yaml"
	if err := os.WriteFile(table, []byte("cases:\n  - {peer: /operator, method: mesh.admin.v1.AdminService/ListConnections, want: allowed}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := b.text(t)
	out, err := b.countersign(t, "policy", "apply", path, "--yes", "--watch=1s")
	if err == nil || !strings.Contains(err.Error(), "the new policy does not pass the tests of "+table) {
		t.Errorf("the error is %v:\n%s", err, out)
	}
	if b.text(t) != before {
		t.Errorf("the file is now\n%s", b.text(t))
	}
}

func TestApplyOverwritesNothingThatWasWrittenSinceItShowedTheDifference(t *testing.T) {
	t.Parallel()
	b, _ := newAuditedBank(t, "ledger")
	path := writeNew(t, b, without(listing))
	theirs := b.text(t) + "\nrevoked: [{id: /risk}]\n"
	out, _, err := b.answering(t, reader(func() string {
		if err := os.WriteFile(b.policy, []byte(theirs), 0o600); err != nil {
			t.Error(err)
		}
		return "y\n"
	}), "policy", "apply", path, "--no-watch")
	// Either the services have their policy in force already, or it is noticed at the moment of writing.
	if err == nil || !strings.Contains(err.Error(), "nothing was changed") && !errors.Is(err, policyfile.ErrStale) || b.text(t) != theirs {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestApplyWithoutAMeshWritesTheFileAlone(t *testing.T) {
	t.Parallel()
	path, dir := filepath.Join("..", "..", "deploy", "policy", "bank.yaml"), t.TempDir()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	place, changed := filepath.Join(dir, "bank.yaml"), filepath.Join(dir, "new.yaml")
	after := without(listing)(string(text))
	if err := errors.Join(os.WriteFile(place, text, 0o600), os.WriteFile(changed, []byte(after), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := countersign(t, "policy", "apply", changed, "--policy", place, "--yes"); err == nil || !strings.Contains(err.Error(), "Add --no-watch to write the file alone") {
		t.Errorf("with a watch: %v", err)
	}
	for _, want := range []string{"No service was asked: no mesh runs in ", "has this policy already"} {
		out, err := countersign(t, "policy", "apply", changed, "--policy", place, "--yes", "--no-watch")
		if got, readErr := os.ReadFile(place); err != nil || readErr != nil || string(got) != after || !strings.Contains(out, want) {
			t.Errorf("%v, %v:\n%s", err, readErr, out)
		}
	}
}
