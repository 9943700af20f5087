// Package e2e holds black-box tests: they build the bank's real binaries, start them as a person does, and look at them from
// outside with crypto/tls and grpc-go as they come.
//
// The tests run one after another: each has a whole mesh of processes to itself, and some measure time. Those that do not, and wait for most of theirs,
// are parallel, and run together after all others.
package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
)

// dist is what TestMain built.
var dist *bank.Dist

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	start := time.Now()
	var err error
	if dist, err = bank.Build(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer func() {
		if err := dist.Remove(); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
		}
	}()
	fmt.Fprintf(os.Stderr, "e2e: built the binaries in %v\n", time.Since(start).Round(100*time.Millisecond))
	return m.Run()
}

// TestTheseTestsAreNotCached keeps `go test` from taking an earlier result for this one: it sees that this package has not changed, but not that the
// services have. It does not cache tests that have read a file of their module that is newer than their end. What is read before the tests
// run, in TestMain, it does not know of.
func TestTheseTestsAreNotCached(t *testing.T) {
	const name = "newer.out"
	if err := os.WriteFile(name, []byte("Read by the tests, so that go test does not cache them.\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tomorrow := time.Now().Add(24 * time.Hour)
	if err := os.Chtimes(name, tomorrow, tomorrow); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(name); err != nil {
		t.Fatal(err)
	}
}
