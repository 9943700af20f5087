package registration

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// record is where a logger writes and a test reads.
type record struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func TestAChangeComesIntoForce(t *testing.T) {
	t.Parallel()
	f, path, _ := watch(t)
	for _, change := range map[string]func(text string){
		"renamed into place": func(text string) { replace(t, path, text) },
		"written in place": func(text string) {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		changed, n := f.Changed(), f.Current().Len()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		change(string(data) + "  - {spiffe_id: /x" + strings.Repeat("x", n) + ", selectors: ['unix:path:/x']}\n")
		wait(t, changed)
		if got := f.Current().Len(); got != n+1 {
			t.Errorf("%d entries, want %d", got, n+1)
		}
	}
}

func TestAFileThatIsAwayOrBrokenChangesNothing(t *testing.T) {
	t.Parallel()
	f, path, logged := watch(t)
	before, changed := f.Current(), f.Changed()
	replace(t, path, "trust_domain: bank.test\nentries: [\n")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	replace(t, path, strings.Replace(good, "bank.test/risk", "evil.test/risk", 1))
	// Until it was judged: the good one that follows comes into force, the ones before it never did.
	deadline := time.Now().Add(10 * time.Second)
	for reported := false; !reported && time.Now().Before(deadline); {
		select {
		case <-changed:
			t.Fatal("a broken file came into force")
		case <-time.After(20 * time.Millisecond):
		}
		reported = f.Current() == before && strings.Contains(logged.String(), "not in the trust domain")
	}
	text := logged.String()
	if !strings.Contains(text, "last good entries stay in force") || !strings.Contains(text, filepath.Base(path)+":7:5") {
		t.Errorf("the log says\n%s", text)
	}
	replace(t, path, good+"  - {spiffe_id: /x, selectors: ['unix:path:/x']}\n")
	wait(t, changed)
	if f.Current().Len() != 3 {
		t.Errorf("%d entries", f.Current().Len())
	}
}
