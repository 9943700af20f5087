// Package e2e holds black-box tests: they build the bank's real binaries, start them as a person does, and look at them from
// outside with crypto/tls and grpc-go as they come.
//
// The tests run one after another: each has a whole mesh of processes to itself, and some measure time.
package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
)

// dist is what TestMain built.
var dist *bank.Dist

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if err := neverCached(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
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

// neverCached keeps `go test` from taking an earlier result for this one: it sees that this package has not changed, but not
// that the services have. It does not cache a test that has read a file of its module that is newer than the test's end.
func neverCached() error {
	name := filepath.Join(".", "newer.out")
	if err := os.WriteFile(name, []byte("Read by the tests, so that go test does not cache them.\n"), 0o600); err != nil {
		return err
	}
	tomorrow := time.Now().Add(24 * time.Hour)
	if err := os.Chtimes(name, tomorrow, tomorrow); err != nil {
		return err
	}
	_, err := os.ReadFile(name)
	return err
}
