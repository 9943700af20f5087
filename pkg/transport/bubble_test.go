package transport_test

import (
	"testing"
	"testing/synctest"
)

// bubble runs f with a clock of its own (testing/synctest). Not under the race detector: with as many timers as gRPC has it crashes in the
// runtime of Go 1.26 (golang.org/issue/78156). `make test` runs this package without it too; what races is tested by the clock on the wall.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if raceDetector {
		t.Skip("the race detector crashes in a synctest bubble with many timers (golang.org/issue/78156); make test runs this without it too")
	}
	synctest.Test(t, f)
}
