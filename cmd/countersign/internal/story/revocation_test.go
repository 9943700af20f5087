package story

import (
	"os"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/admin"
)

func TestAServiceIsDisownedAndBelievedAgain(t *testing.T) {
	t.Parallel()
	s := newVault(t, true)
	before, err := admin.PolicyOf(t.Context(), s.gateway)
	if err != nil {
		t.Fatal(err)
	}
	change, takeBack, err := s.disownRisk(t.Context(), s.gateway)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(s.settings.Mesh.Policy); err != nil || !strings.Contains(string(text), "- id: /risk\n") {
		t.Errorf("the policy file is now (%v)\n%s", err, text)
	}
	if ok, err := s.ignored(t.Context(), change, s.gateway); !ok || err != nil || s.differences != 0 {
		t.Errorf("%t, %v:\n%s", ok, err, &s.out)
	}
	if _, _, err := s.disownRisk(t.Context()); err == nil || !strings.Contains(err.Error(), "risk is revoked already, by bank.yaml:") {
		t.Errorf("a second time: %v", err)
	}
	for range 2 { // also when the story ends in between
		if err := takeBack(t.Context()); err != nil {
			t.Error(err)
		}
	}
	s.unchanged(t)
	if after, err := admin.PolicyOf(t.Context(), s.gateway); err != nil || after != before {
		t.Errorf("the gateway has %v in force, %v; want %v", after, err, before)
	}
}

// A story that cannot fail tells nothing: a service that goes on believing risk must be found out.
func TestAServiceThatBelievesWhoIsRevokedIsFoundOut(t *testing.T) {
	t.Parallel()
	s := newVault(t, false)
	change, takeBack, err := s.disownRisk(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := s.ignored(t.Context(), change, s.gateway); ok || err != nil || s.differences != 1 {
		t.Errorf("%t, %v, and %d checks differ:\n%s", ok, err, s.differences, &s.out)
	}
	if err := takeBack(t.Context()); err != nil {
		t.Error(err)
	}
	s.unchanged(t)
}

// One that heeds it does not answer for the other: a name with several servers behind it is as good as the worst of them.
func TestOneOfSeveralServersThatBelievesWhoIsRevokedIsFoundOut(t *testing.T) {
	t.Parallel()
	s := newVault(t, true)
	stale := s.mesh.Dial(t, "/operator", "/gateway", serveGateway(t, s.mesh, s.settings.Mesh.Policy, false))
	change, takeBack, err := s.disownRisk(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := s.ignored(t.Context(), change, s.gateway, stale); ok || err != nil || s.differences != 1 || !strings.Contains(s.out.String(), stale.Target()) {
		t.Errorf("%t, %v, and %d checks differ:\n%s", ok, err, s.differences, &s.out)
	}
	if err := takeBack(t.Context()); err != nil {
		t.Error(err)
	}
	s.unchanged(t)
}
