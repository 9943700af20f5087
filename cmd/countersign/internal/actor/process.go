package actor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
)

// Processes are actors that are started when they are needed.
type Processes struct {
	// Dir has the copies of the CLI, each under the name of its actor.
	Dir string
	// Endpoint is the Workload API that gives them their identities.
	Endpoint string
}

// Act starts the actor with this name, to call these servers. It lives until Close, or ctx ends. The error of Close has what the actor wrote to
// standard error if it failed.
func (p Processes) Act(ctx context.Context, name string, to ...dial.Target) (*Actor, error) {
	path := filepath.Join(p.Dir, name)
	a, err := start(ctx, path, p.Endpoint, to)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	return a, nil
}

// servers are targets as act takes them.
func servers(to []dial.Target) []string {
	var list []string
	for _, target := range to {
		list = append(list, target.Address+"="+target.ID.String())
	}
	return list
}

func start(ctx context.Context, path, endpoint string, to []dial.Target) (*Actor, error) {
	//nolint:gosec // which program plays an actor is this command's to say
	cmd := exec.CommandContext(ctx, path, append([]string{"act", "--socket=" + endpoint}, servers(to)...)...)
	var stderr bytes.Buffer
	cmd.Stderr, cmd.WaitDelay = &stderr, goodbye
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, stdin.Close())
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return meet(stdin, stdout, to, func() error {
		closed := stdin.Close()
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%s: %w: %s", path, err, strings.TrimSpace(stderr.String()))
		}
		return closed
	})
}
