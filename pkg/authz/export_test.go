package authz

import (
	"context"

	"github.com/countersign-mesh/countersign/pkg/policy"
	"github.com/countersign-mesh/countersign/pkg/watchfile"
)

// Refresh is what the watch does when it sees another text, without the time that it takes to see one.
func (f *File) Refresh(ctx context.Context, text string) {
	f.refresh(ctx, watchfile.Look[policy.Source]{Value: policy.Text(f.path, []byte(text))})
}
