package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// tester runs the tests of a package.
type tester struct {
	dir      string
	limit    time.Duration
	arg      string
	progress io.Writer
	mu       sync.Mutex
}

// all tries each mutant, some at once. The tests have to pass without any.
func (t *tester) all(ctx context.Context, mutants []*mutant, jobs int) error {
	scratch, err := os.MkdirTemp("", "mutations")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	began := time.Now()
	if got, said := t.test(ctx, "", scratch); got != unnoticed {
		return fmt.Errorf("the tests of %s do not pass as they are:\n%s", t.dir, said)
	}
	fmt.Fprintf(t.progress, "%d changes; the tests take %v without any\n", len(mutants), time.Since(began).Round(time.Second))
	queue := make(chan *mutant)
	errs := make([]error, jobs)
	var group sync.WaitGroup
	for i := range jobs {
		group.Go(func() {
			for m := range queue {
				errs[i] = errors.Join(errs[i], t.try(ctx, m, filepath.Join(scratch, fmt.Sprint(i))))
			}
		})
	}
	for _, m := range mutants {
		queue <- m
	}
	close(queue)
	group.Wait()
	fmt.Fprintf(t.progress, "took %v\n", time.Since(began).Round(time.Second))
	return errors.Join(errors.Join(errs...), ctx.Err())
}

// try runs the tests against one mutant. It uses scratch alone.
func (t *tester) try(ctx context.Context, m *mutant, scratch string) error {
	if ctx.Err() != nil {
		return nil
	}
	path, err := filepath.Abs(m.file)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(scratch, 0o700); err != nil {
		return err
	}
	file, overlay := filepath.Join(scratch, "mutant.go"), filepath.Join(scratch, "overlay.json")
	described, err := json.Marshal(map[string]map[string]string{"Replace": {path: file}})
	if err != nil {
		return err
	}
	if err := errors.Join(os.WriteFile(file, m.text, 0o600), os.WriteFile(overlay, described, 0o600)); err != nil {
		return err
	}
	m.result, _ = t.test(ctx, overlay, scratch)
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.progress, "%s:%d: %s: %s\n", m.file, m.line, m.change(), m.result)
	return nil
}

// test builds the tests, in scratch, and runs them: what they say of the mutant that an overlay describes.
func (t *tester) test(ctx context.Context, overlay, scratch string) (result, []byte) {
	binary := filepath.Join(scratch, "tests")
	// Without symbols the binary is linked in half of the time.
	build := []string{"test", "-c", "-vet=off", "-ldflags=-s -w", "-o", binary}
	if overlay != "" {
		build = append(build, "-overlay", overlay)
	}
	said, err := exec.CommandContext(ctx, "go", append(build, "./"+filepath.ToSlash(t.dir))...).CombinedOutput() //nolint:gosec // whoever runs this names the package
	if err != nil {
		return noProgram, said
	}
	limited, cancel := context.WithTimeout(ctx, t.limit)
	defer cancel()
	args := []string{"-test.short", "-test.failfast"}
	if t.arg != "" {
		args = append(args, t.arg)
	}
	tests := exec.CommandContext(limited, binary, args...) //nolint:gosec // it was built above
	tests.Dir = t.dir
	var out bytes.Buffer
	tests.Stdout, tests.Stderr = &out, &out
	err = tests.Run()
	switch {
	case err == nil:
		return unnoticed, out.Bytes()
	case limited.Err() != nil:
		return tookTooLong, out.Bytes()
	}
	return noticed, out.Bytes()
}
