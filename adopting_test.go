package countersign_test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

const adopting = "docs/adopting"

// docs/adopting.md shows the programs and the policies as they stand.
func TestAdoptingShowsTheProgramsAsTheyAre(t *testing.T) {
	t.Parallel()
	page := read(t, adopting+".md")
	added := 0
	for _, change := range []struct{ from, to, program string }{
		{"before", "after", "server"}, {"before", "after", "client"}, {"after", "users", "server"},
	} {
		shownBefore, shownAfter, lines := sides(block(t, page, "```diff\n--- "+change.from+"/"+change.program))
		if change.to == "after" {
			added += lines
		}
		for edition, shown := range map[string]string{change.from: shownBefore, change.to: shownAfter} {
			if diff := cmp.Diff(body(read(t, filepath.Join(adopting, edition, change.program, "main.go"))), shown); diff != "" {
				t.Errorf("%s, %s (-program +page):\n%s", change.program, edition, diff)
			}
		}
	}
	if added != 10 {
		t.Errorf("the page promises ten lines and shows %d", added)
	}
	if diff := cmp.Diff(strings.TrimSpace(read(t, filepath.Join(adopting, "policy.yaml"))), block(t, page, "```yaml\ntrust_domain: bank.test\n\nservices")); diff != "" {
		t.Errorf("the policy (-file +page):\n%s", diff)
	}
	for begin, file := range map[string]string{
		"```yaml\n      GetBalance":            "users/policy.yaml",
		"```yaml\n  bank.login":                "users/policy.yaml",
		"```go\n\t// The ledger, and nobody":   "users/edge/main.go",
		"```go\n// GetBalance asks the ledger": "users/edge/main.go",
	} {
		if shown := block(t, page, begin); !strings.Contains(read(t, filepath.Join(adopting, file)), shown+"\n") {
			t.Errorf("%s does not have what the page shows of it:\n%s", file, shown)
		}
	}
}

// sides are the two sides of a diff, and how many lines it adds.
func sides(diff string) (before, after string, added int) {
	var removed, kept []string
	for line := range strings.SplitSeq(diff, "\n") {
		text := line
		if line != "" {
			text = line[1:]
		}
		switch {
		case strings.HasPrefix(line, "---"), strings.HasPrefix(line, "+++"):
		case strings.HasPrefix(line, "-"):
			removed = append(removed, text)
		case strings.HasPrefix(line, "+"):
			kept = append(kept, text)
			added++
		default:
			removed, kept = append(removed, text), append(kept, text)
		}
	}
	return strings.Join(removed, "\n"), strings.Join(kept, "\n"), added
}

// body is a program from its imports to the end of main: what comes before and after does not change.
func body(program string) string {
	start, end := strings.Index(program, "import ("), strings.Index(program, "\n}\n")
	return program[start : end+2]
}

// block returns the block of a page that begins so.
func block(t *testing.T, page, begin string) string {
	t.Helper()
	start := strings.Index(page, begin)
	if start < 0 {
		t.Fatalf("the page has no block that begins with %q", begin)
	}
	_, rest, _ := strings.Cut(page[start:], "\n")
	shown, _, _ := strings.Cut(rest, "\n```")
	return shown
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The programs run as the page says: before, whoever calls is answered; after, who the policy allows, and nobody else.
func TestAdoptingRuns(t *testing.T) {
	t.Parallel()
	bin := buildAdopting(t, "before", "after", "users")
	policy := filepath.Join(adopting, "policy.yaml")
	m := meshtest.Open(t, "bank.test", policy)
	socket := func(workload string) string {
		m.Identity(t, workload)
		return m.API(t, workload).Addr()
	}

	plain := start(t, "", filepath.Join(bin, "before", "server"), "localhost:0")
	if out, err := run(t, "", filepath.Join(bin, "before", "client"), plain, "bank-cash"); err != nil || !strings.Contains(out, "2500") {
		t.Errorf("before: %v\n%s", err, out)
	}

	secured := start(t, socket("/ledger"), filepath.Join(bin, "after", "server"), "localhost:0", policy)
	client := filepath.Join(bin, "after", "client")
	if out, err := run(t, socket("/gateway"), client, secured, "bank-cash", policy); err != nil || !strings.Contains(out, "2500") {
		t.Errorf("after: %v\n%s", err, out)
	}
	// Not by its own policy file, nor, with one of its own making, by the server's.
	if out, err := run(t, socket("/risk"), client, secured, "bank-cash", policy); err == nil || !strings.Contains(out, "the policy does not list this server for spiffe://bank.test/risk") {
		t.Errorf("another workload: %v\n%s", err, out)
	}
	forged := filepath.Join(bin, "forged.yaml")
	if err := os.WriteFile(forged, []byte(strings.ReplaceAll(read(t, policy), "peer: /gateway", "peer: /risk")), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, socket("/risk"), client, secured, "bank-cash", forged); err == nil || !strings.Contains(out, "PermissionDenied") {
		t.Errorf("another workload that heeds no policy: %v\n%s", err, out)
	}
	if out, err := run(t, "", filepath.Join(bin, "before", "client"), secured, "bank-cash"); err == nil {
		t.Errorf("a client without identity was answered:\n%s", out)
	}
	if out, err := run(t, socket("/gateway"), client, plain, "bank-cash", policy); err == nil {
		t.Errorf("a server without identity was believed:\n%s", out)
	}
	t.Run("with users", func(t *testing.T) {
		t.Parallel()
		adoptingUsers(t, bin)
	})
}

// buildAdopting builds the programs of some editions, each into a folder of its name, and returns where these are.
func buildAdopting(t *testing.T, editions ...string) (bin string) {
	t.Helper()
	bin = t.TempDir()
	for _, edition := range editions {
		build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", filepath.Join(bin, edition)+"/", "./"+filepath.Join(adopting, edition)+"/...")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build: %v\n%s", err, out)
		}
	}
	return bin
}

// start runs a server until the test ends, and returns the address that it prints.
func start(t *testing.T, socket, program string, args ...string) string {
	t.Helper()
	cmd := command(t.Context(), socket, program, args...)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() }) // it was killed
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%s prints no address: %v", program, err)
	}
	return strings.TrimSpace(address)
}

// run runs a client to its end, and returns what it prints.
func run(t *testing.T, socket, program string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := command(ctx, socket, program, args...).CombinedOutput()
	return string(out), err
}

func command(ctx context.Context, socket, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "SPIFFE_ENDPOINT_SOCKET="+socket)
	return cmd
}
