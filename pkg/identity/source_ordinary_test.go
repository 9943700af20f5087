package identity_test

import (
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// ordinary is what a Go program has without this package: go-spiffe's X509Source, as its documentation shows it. Only its retries
// are faster, so that a test need not wait for what does not come.
func ordinary(t *testing.T, api *meshtest.WorkloadAPI) *workloadapi.X509Source {
	t.Helper()
	source, err := workloadapi.NewX509Source(t.Context(),
		workloadapi.WithClientOptions(workloadapi.WithAddr(api.Addr()), workloadapi.WithBackoffStrategy(hasty{})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = source.Close() }) // a watch that has given up makes it fail
	return source
}

// hasty is a backoff strategy that hardly waits.
type hasty struct{}

func (hasty) NewBackoff() workloadapi.Backoff { return hasty{} }
func (hasty) Next() time.Duration             { return 20 * time.Millisecond }
func (hasty) Reset()                          {}

// never fails when ok comes to hold. What would make it so takes milliseconds.
func never(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); <-time.After(2 * time.Millisecond) {
		if ok() {
			t.Fatalf("came about: %s", what)
		}
	}
}
