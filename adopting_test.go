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

// docs/adopting.md shows the programs and the policy as they stand.
func TestAdoptingShowsTheProgramsAsTheyAre(t *testing.T) {
	t.Parallel()
	page := read(t, adopting+".md")
	for _, program := range []string{"server", "client"} {
		before, after := read(t, filepath.Join(adopting, "before", program, "main.go")), read(t, filepath.Join(adopting, "after", program, "main.go"))
		shown := block(t, page, "```diff\n--- before/"+program)
		var shownBefore, shownAfter []string
		for line := range strings.SplitSeq(shown, "\n") {
			text := line
			if line != "" {
				text = line[1:]
			}
			switch {
			case strings.HasPrefix(line, "---"), strings.HasPrefix(line, "+++"):
			case strings.HasPrefix(line, "-"):
				shownBefore = append(shownBefore, text)
			case strings.HasPrefix(line, "+"):
				shownAfter = append(shownAfter, text)
			default:
				shownBefore, shownAfter = append(shownBefore, text), append(shownAfter, text)
			}
		}
		if diff := cmp.Diff(body(before), strings.Join(shownBefore, "\n")); diff != "" {
			t.Errorf("%s before (-program +page):\n%s", program, diff)
		}
		if diff := cmp.Diff(body(after), strings.Join(shownAfter, "\n")); diff != "" {
			t.Errorf("%s after (-program +page):\n%s", program, diff)
		}
	}
	if added := strings.Count(page, "\n+") - 2; added != 10 { // less the two headers
		t.Errorf("the page promises ten lines and shows %d", added)
	}
	if diff := cmp.Diff(strings.TrimSpace(read(t, filepath.Join(adopting, "policy.yaml"))), block(t, page, "```yaml\ntrust_domain: bank.test\n\nservices")); diff != "" {
		t.Errorf("the policy (-file +page):\n%s", diff)
	}
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
	bin := t.TempDir()
	for _, edition := range []string{"before", "after"} {
		build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", filepath.Join(bin, edition)+"/", "./"+filepath.Join(adopting, edition)+"/...")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build: %v\n%s", err, out)
		}
	}
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
