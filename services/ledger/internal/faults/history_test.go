package faults_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"golang.org/x/sync/errgroup"
)

// caller sends an operation until it is known what became of it.
type caller func(ctx context.Context, o op) (answer, error)

const (
	// clients are at the books at once, in as many groups as makes the checker's work short: it tries the orders of what happened at once
	// within a group.
	clients = 12
	groups  = 3
)

// history is what clients saw.
type history struct {
	begin time.Time
	marks []int         // the numbers of answers at which something is to happen
	reach chan struct{} // receives at each of them

	mu         sync.Mutex
	operations []porcupine.Operation
}

// record lets the clients do so many operations together, in groups from first on, and calls crash when there were as many answers as each
// of the marks says.
func record(t *testing.T, call caller, first, operations int, marks []int, crash func()) []porcupine.Operation {
	t.Helper()
	slices.Sort(marks)
	h := &history{begin: time.Now(), marks: marks, reach: make(chan struct{}, len(marks))}
	all, ctx := errgroup.WithContext(t.Context())
	for g := range groups {
		w := newWorld(first+g, uint64(time.Now().UnixNano()))
		for c := range clients / groups {
			all.Go(func() error { return h.run(ctx, g*clients/groups+c, call, w, operations/clients) })
		}
	}
	for range marks {
		select {
		case <-h.reach:
			crash()
		case <-ctx.Done():
		}
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	return h.operations
}

// run is one client.
func (h *history) run(ctx context.Context, client int, call caller, w *world, operations int) error {
	for range operations {
		o := w.next()
		begin := time.Since(h.begin)
		a, err := call(ctx, o)
		if err != nil {
			return fmt.Errorf("%v of group %d: %w", o, o.Group, err)
		}
		h.add(porcupine.Operation{ClientId: client, Input: o, Call: int64(begin), Output: a, Return: int64(time.Since(h.begin))})
	}
	return nil
}

func (h *history) add(o porcupine.Operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.operations = append(h.operations, o)
	for len(h.marks) > 0 && len(h.operations) >= h.marks[0] {
		h.marks = h.marks[1:]
		h.reach <- struct{}{}
	}
}

// checkTimeout bounds the work of the checker for one history. It takes a fraction of a second of it.
const checkTimeout = time.Minute

// linearizable checks a history, and writes what is wrong with it to a file.
func linearizable(t *testing.T, operations []porcupine.Operation) error {
	t.Helper()
	result, info := porcupine.CheckOperationsVerbose(linear(), operations, checkTimeout)
	if result == porcupine.Ok {
		return nil
	}
	path := filepath.Join(artifacts(t), "history.html")
	if err := porcupine.VisualizePath(linear(), info, path); err != nil {
		return fmt.Errorf("the history is not linearizable (%s), and there is no picture of it: %w", result, err)
	}
	return fmt.Errorf("the history is not linearizable (%s): see %s", result, path)
}

// artifacts is a folder that is there after the test has failed.
func artifacts(t *testing.T) string {
	t.Helper()
	if f := flag.Lookup("test.artifacts"); f != nil && f.Value.String() == "true" {
		return t.ArtifactDir()
	}
	dir, err := os.MkdirTemp("", "history-") //nolint:usetesting // a person wants to look at it later
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
