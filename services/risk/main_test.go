package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/pkg/settings"
)

func TestEveryBadFlagIsReportedAtOnce(t *testing.T) {
	t.Parallel()
	err := run(t.Context(), []string{
		"--workload-api=tcp://nowhere", "--policy=/does/not/exist", "--rules=/nor/this", "--dsn=risk.db", "--audit=audit",
	}, t.Output())
	if err == nil {
		t.Fatal("run started with bad flags")
	}
	for _, want := range []string{"--workload-api", "--policy", "--rules", "--dsn", "sqlite:PATH", "--audit", "gRPC target"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

func TestBadRulesStopTheStart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(path, []byte("velocity: []\nblocked_payees: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := run(t.Context(), []string{"--workload-api=unix:///none", "--policy=" + path, "--rules=" + path, "--audit=audit:1"}, t.Output())
	if err == nil || !strings.Contains(err.Error(), path+`:1:1: the file lacks the field "amount_ceilings"`) {
		t.Errorf("run = %v; want an error that names file, line and field", err)
	}
}

func TestHelpExplainsTheFlags(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := run(t.Context(), []string{"--help"}, &out); !errors.Is(err, settings.ErrHelp) {
		t.Fatalf("run --help = %v", err)
	}
	for _, want := range []string{"Says whether a payment may go through", "--rules", "RISK_RULES", "--dsn", "--audit", "SPIFFE_ENDPOINT_SOCKET"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the help does not say %q", want)
		}
	}
}
