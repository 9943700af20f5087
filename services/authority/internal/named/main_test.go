package named

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/services/authority/internal/attest"
	"github.com/countersign-mesh/countersign/services/authority/internal/registration"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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

// room is a directory for sockets and the registration file that asks for them.
type room struct {
	t       *testing.T
	dir     string
	entries *registration.File
	logged  *record
	// retry takes the place of retryInterval where it is not 0, and noted is how the sockets that serve serves describe themselves.
	retry time.Duration
	noted func() string
}

func newRoom(t *testing.T, names ...string) *room {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "named") //nolint:usetesting // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	r := &room{t: t, dir: dir, logged: &record{}}
	r.ask(names...)
	r.entries, err = registration.Open(dir+"/entries.yaml", spiffeid.RequireTrustDomainFromString("bank.test"), r.log())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *room) log() *slog.Logger { return slog.New(slog.NewTextHandler(r.logged, nil)) }

// ask writes a registration file that asks for a socket for each name.
func (r *room) ask(names ...string) {
	r.t.Helper()
	text := "trust_domain: bank.test\nentries:\n  - {spiffe_id: /process, selectors: ['unix:path:/process']}\n"
	for _, name := range names {
		text += fmt.Sprintf("  - {spiffe_id: /%s, selectors: ['socket:%s']}\n", name, name)
	}
	if err := os.WriteFile(r.dir+"/new", []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(r.dir+"/new", r.dir+"/entries.yaml"); err != nil {
		r.t.Fatal(err)
	}
}

func (r *room) open() (*Sockets, error) {
	return Open(r.t.Context(), r.dir, r.entries, r.log())
}

// serve serves the sockets in the way that answer does it until the test ends, or until stop is called, which returns what Serve did.
func (r *room) serve(answer func(net.Listener) error) (stop func() error) {
	r.t.Helper()
	s, err := r.open()
	if err != nil {
		r.t.Fatal(err)
	}
	s.retry = cmp.Or(r.retry, s.retry)
	r.noted = s.Note
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() {
		if err := r.entries.Watch(ctx); err != nil {
			r.t.Error(err)
		}
	})
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, answer) }()
	stop = sync.OnceValue(func() error {
		cancel()
		watching.Wait()
		return <-done
	})
	r.t.Cleanup(func() { _ = stop() })
	return stop
}

// sayWho answers each caller with its selectors.
func sayWho(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		caller := attest.New().Attest(conn)
		process, err := caller.Process()
		if _, err := fmt.Fprint(conn, process.Selectors(), err); err != nil {
			return err
		}
		if err := errors.Join(caller.Close(), conn.Close()); err != nil {
			return err
		}
	}
}

// who asks a socket who this process is.
func (r *room) who(name string) (string, error) {
	conn, err := net.Dial("unix", filepath.Join(r.dir, name, "api.sock"))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	buffer := make([]byte, 1024)
	n, err := conn.Read(buffer)
	return string(buffer[:n]), err
}

func (r *room) want(name string) {
	r.t.Helper()
	want := fmt.Sprintf("[unix:uid:%d socket:%s] <nil>", os.Getuid(), name)
	if got, err := r.who(name); err != nil || got != want {
		r.t.Errorf("the socket %s says %q, %v", name, got, err)
	}
}

func (r *room) mkdir(name string) {
	r.t.Helper()
	if err := os.Mkdir(filepath.Join(r.dir, name), 0o755); err != nil {
		r.t.Fatal(err)
	}
}

// eventually polls a condition with a bound.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); {
		if time.Now().After(end) {
			t.Fatalf("it does not come about that %s", what)
		}
		time.Sleep(5 * time.Millisecond) //nolint:forbidigo // the poll of a condition with a bound
	}
}
