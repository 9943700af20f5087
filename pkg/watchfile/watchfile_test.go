package watchfile_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/pkg/watchfile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watched watches a file that holds text and returns the looks that are reported.
func watched(t *testing.T, text string) (path string, looks <-chan watchfile.Look[string]) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "f")
	write(t, file, text)
	reported := make(chan watchfile.Look[string], 100)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- watchfile.Watch(ctx, watchfile.File(file), text, slog.New(slog.DiscardHandler), func(_ context.Context, l watchfile.Look[string]) { reported <- l })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
	return file, reported
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func next(t *testing.T, looks <-chan watchfile.Look[string]) watchfile.Look[string] {
	t.Helper()
	select {
	case l := <-looks:
		return l
	case <-time.After(5 * time.Second):
		t.Fatal("no change was reported")
		return watchfile.Look[string]{}
	}
}

func TestEachChangeIsReportedOnce(t *testing.T) {
	t.Parallel()
	path, looks := watched(t, "one")
	write(t, path, "one") // written and not changed
	write(t, path, "two")
	if got := next(t, looks); got.Value != "two" || got.Err != nil {
		t.Errorf("reported %+v, want two", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := next(t, looks); got.Err == nil || !strings.Contains(got.Err.Error(), "no such file") {
		t.Errorf("reported %+v, want that the file is away", got)
	}
	write(t, path, "one")
	if got := next(t, looks); got.Value != "one" || got.Err != nil {
		t.Errorf("reported %+v, want one", got)
	}
	if n := len(looks); n != 0 {
		t.Errorf("%d more reports: %+v", n, <-looks)
	}
}

// What a writer leaves for less than the settling time is not reported, and a writer that never rests does not keep changes out.
func TestAFileThatNeverRestsIsReported(t *testing.T) {
	t.Parallel()
	path, looks := watched(t, "0")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
				_ = os.WriteFile(path, []byte(strings.Repeat("x", i%100+1)), 0o600)
			}
		}
	}()
	next(t, looks)
	close(stop)
	<-stopped
}

// Notifications are a help and no need: a directory that is not there, and appears later, is found by polling.
func TestWithoutNotificationsTheFileIsPolled(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "later", "f")
	reported := make(chan watchfile.Look[string], 10)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- watchfile.Watch(ctx, watchfile.File(path), "", slog.New(slog.DiscardHandler), func(_ context.Context, l watchfile.Look[string]) { reported <- l })
	}()
	if got := next(t, reported); got.Err == nil {
		t.Errorf("reported %+v, want that the file is away", got)
	}
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, path, "here")
	if got := next(t, reported); got.Value != "here" {
		t.Errorf("reported %+v, want the text", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Watch = %v", err)
	}
}
