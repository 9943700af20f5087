package policyfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policyfile"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

func TestReplaceOverwritesNothingThatWasNotSeen(t *testing.T) {
	t.Parallel()
	path := fileOf(t, rules)
	if at, err := policyfile.Replace(t.Context(), path, rules, rules+"# ours\n"); err != nil || at.IsZero() {
		t.Fatalf("%v, at %v", err, at)
	}
	if _, err := policyfile.Replace(t.Context(), path, rules, rules+"# theirs\n"); !errors.Is(err, policyfile.ErrStale) {
		t.Errorf("a second one that has seen the first text: %v", err)
	}
	if got := read(t, path); got != rules+"# ours\n" {
		t.Errorf("the file is %q", got)
	}
}

func TestReplaceKeepsALinkAndTheMode(t *testing.T) {
	t.Parallel()
	path := fileOf(t, rules)
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link.yaml")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := policyfile.Replace(t.Context(), link, rules, "new"); err != nil {
		t.Fatal(err)
	}
	target, err := os.Readlink(link)
	info, statErr := os.Stat(path)
	if err != nil || statErr != nil || target != path || info.Mode().Perm() != 0o640 {
		t.Errorf("the link leads to %q, and the mode is %v (%v, %v)", target, info.Mode(), err, statErr)
	}
}

func TestKeepWritesACopyThatOneRenamePutsBack(t *testing.T) {
	t.Parallel()
	path := fileOf(t, rules)
	link := filepath.Join(t.TempDir(), "link.yaml")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second time it stands there already
		kept, err := policyfile.Keep(link, "0123456789abcdef", rules)
		if err != nil || kept != path+".before-0123456789abcdef" {
			t.Fatalf("it is kept as %s (%v), want it beside %s", kept, err, path)
		}
		got := read(t, kept)
		info, err := os.Stat(kept)
		if err != nil || got != rules || info.Mode().Perm() != 0o600 {
			t.Errorf("it is %q with mode %v (%v)", got, info.Mode(), err)
		}
	}
}

func TestMissingKnowsARevocationHoweverItIsWritten(t *testing.T) {
	t.Parallel()
	before := rules + "revoked: [{id: /risk}, {serial: \"4F:02\"}, {authority: \"9C:01\"}, {id: spiffe://partner.test/x}]\n"
	for name, test := range map[string]struct {
		after string
		want  []*policyv1.Revocation
	}{
		"the same":                         {before, nil},
		"in other words and another order": {rules + "revoked: [{id: spiffe://partner.test/x}, {authority: \"9c01\"}, {id: spiffe://bank.test/risk}, {serial: \"4f02\"}]\n", nil},
		"one more":                         {strings.Replace(before, "revoked: [{", "revoked: [{id: /more}, {", 1), nil},
		"none":                             {rules, []*policyv1.Revocation{byID("/risk", ""), bySerial("4F:02"), byAuthority("9C:01"), byID("spiffe://partner.test/x", "")}},
		"one less":                         {strings.Replace(before, "{id: /risk}, ", "", 1), []*policyv1.Revocation{byID("/risk", "")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := policyfile.Missing("p.yaml", before, test.after)
			if diff := cmp.Diff(test.want, got, protocmp.Transform()); err != nil || diff != "" {
				t.Errorf("%v, want (-) and got (+):\n%s", err, diff)
			}
		})
	}
}
