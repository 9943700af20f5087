package authz

import (
	"context"
	"time"

	"github.com/countersign-mesh/countersign/pkg/policy"
	"github.com/countersign-mesh/countersign/pkg/watchfile"
)

// Refresh is what the watch does when it sees another text, without the time that it takes to see one.
func (f *File) Refresh(ctx context.Context, text string) {
	f.refresh(ctx, watchfile.Look[policy.Source]{Value: policy.Text(f.path, []byte(text))})
}

// WithClock sets the clock that tells whether the token of a stream has expired.
func WithClock(now func() time.Time) GuardOption { return func(g *Guard) { g.now = now } }
