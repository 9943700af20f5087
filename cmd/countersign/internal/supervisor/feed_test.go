package supervisor

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

func TestAReaderThatStallsStopsNobody(t *testing.T) {
	t.Parallel()
	dir, release := tempDir(t), make(chan struct{})
	defer close(release)
	m := fakeMesh(t, dir, map[string][]string{"back": {"say=" + strings.Repeat("x\n", 60_000)}}) // more than pipe and queue hold
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	result := make(chan error, 1)
	go func() {
		result <- m.Run(ctx, nil, Events{Line: func(string, string) { <-release }, Ready: func([]Status) {}})
	}()
	eventually(t, "ready", func() bool { r, err := dir.Running(); return err == nil && r.Ready })
	cancel()
	eventually(t, "the end", func() bool { return len(result) > 0 })
	if err := <-result; err != nil {
		t.Error(err)
	}
}

func TestLinesThatWereDroppedAreCounted(t *testing.T) {
	t.Parallel()
	release, last := make(chan struct{}), ""
	f := newFeed(func(_, line string) { <-release; last = line })
	for range 3 * feedLength {
		f.add("back", "line")
	}
	f.mu.Lock()
	dropped := f.dropped
	f.mu.Unlock()
	close(release)
	f.close()
	if want := fmt.Sprintf("%d lines were dropped", dropped); dropped < feedLength || !strings.Contains(last, want) {
		t.Errorf("the last line is %q, want %q in it", last, want)
	}
}
