package meshtest

import (
	"context"
	"errors"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

// WithoutUsers is for a server whose policy has rules with a user in a test that is not about them: no call has one, so those rules allow nothing.
func WithoutUsers() mesh.ServerOption { return mesh.WithUsers(noUsers{}) }

type noUsers struct{}

var errNoUser = errors.New("this server verifies no user's token")

// User implements authz.Users.
func (noUsers) User(ctx context.Context) (context.Context, *policy.User, error) {
	return ctx, nil, errNoUser
}
