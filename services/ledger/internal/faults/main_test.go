package faults_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
)

// TestMain plays the process that has the books, where the environment says so, and otherwise runs the tests.
func TestMain(m *testing.M) {
	if dsn := os.Getenv(childDSN); dsn != "" {
		os.Exit(playChild(dsn))
	}
	goleak.VerifyTestMain(tests{databasetest.Main{M: m}})
}

// tests runs the tests and removes what they share.
type tests struct{ databasetest.Main }

// Run implements what goleak.VerifyTestMain runs.
func (t tests) Run() int {
	code := t.Main.Run()
	if err := removeProgram(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(code, 1)
	}
	return code
}

// soak reports whether the tests may take their time.
func soak() bool { return os.Getenv("COUNTERSIGN_SOAK") != "" }

// scaled is how often an attack is repeated: usually, and where there is time.
func scaled(usual, long int) int {
	if soak() {
		return long
	}
	return usual
}
