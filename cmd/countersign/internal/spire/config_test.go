package spire

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write deploy/spire anew")

// TestTheFilesForContainersAreOfTheSameText: a change of a template is a change of both, or this fails. To write the files anew:
// go test ./cmd/countersign/internal/spire -run Containers -update.
func TestTheFilesForContainersAreOfTheSameText(t *testing.T) {
	t.Parallel()
	server := ServerConfig{
		TrustDomain: "bank.test", Listen: Endpoint{"0.0.0.0", 8081}, Health: Endpoint{"127.0.0.1", 8080}, Socket: "/run/spire/server/private/api.sock",
		Data: "/var/lib/spire/server", Authorities: "/node/ca.pem", LogLevel: "INFO", Lifetimes: Lifetimes{SVID: 2 * time.Minute, Authority: DefaultAuthorityTTL},
	}
	agent := AgentConfig{
		TrustDomain: "bank.test", Server: Endpoint{"spire-server", 8081}, Health: Endpoint{"127.0.0.1", 8080}, Socket: "/run/spiffe/api.sock",
		Data: "/var/lib/spire/agent", Bundle: "/bundle/bundle.pem", Node: nodeIn("/node", "docker"), LogLevel: "INFO", Docker: true,
	}
	for name, text := range map[string]func() ([]byte, error){"server.conf": server.Text, "agent.conf": agent.Text} {
		want, err := text()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("..", "..", "..", "..", "deploy", "spire", name)
		if *update {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s is not what the template says (-template +file):\n%s", path, diff)
		}
	}
}

func TestPathsAreQuoted(t *testing.T) {
	t.Parallel()
	text, err := ServerConfig{Data: `/a "b" c`}.Text()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`data_dir = "/a \"b\" c"`, `keys_path = "/a \"b\" c/keys.json"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the text lacks %s:\n%s", want, text)
		}
	}
}

func TestLifetimesThatSPIRECannotKeepAreRefused(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		of   Lifetimes
		want string
	}{
		"as they are by default":        {Lifetimes{2 * time.Minute, DefaultAuthorityTTL}, ""},
		"the shortest":                  {Lifetimes{20 * time.Second, 2 * time.Minute}, ""},
		"an SVID shorter than that":     {Lifetimes{19 * time.Second, time.Hour}, "--svid-ttl: 19s is too short for SPIRE"},
		"an authority shorter than six": {Lifetimes{time.Minute, 5 * time.Minute}, "right would be 6m0s or more"},
	} {
		err := test.of.Check()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q in it", name, err, test.want)
		}
	}
}

func TestMissingProgramsAreNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "spire-server"), []byte("#!/bin/sh\necho 1.2.3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := FindPrograms(dir)
	if err == nil || !strings.Contains(err.Error(), "no spire-agent on "+dir) || strings.Contains(err.Error(), "no spire-server") || !strings.Contains(err.Error(), "--spire-bin") {
		t.Errorf("the error is %v", err)
	}
	p, err := Programs{Server: filepath.Join(dir, "spire-server")}.AskVersion(t.Context())
	if err != nil || p.Version != "1.2.3" {
		t.Errorf("the version is %q, %v", p.Version, err)
	}
}
