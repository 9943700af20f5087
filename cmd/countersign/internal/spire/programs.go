package spire

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// versionTime bounds the question for a program's version.
const versionTime = 10 * time.Second

// Programs are SPIRE's two programs on this machine.
type Programs struct {
	Server, Agent string
	// Version is what the server says of itself, such as "1.15.3".
	Version string
}

// FindPrograms looks for spire-server and spire-agent in a directory, or on the PATH when it is empty.
func FindPrograms(dir string) (Programs, error) {
	server, errServer := look(dir, "spire-server")
	agent, errAgent := look(dir, "spire-agent")
	if err := errors.Join(errServer, errAgent); err != nil {
		return Programs{}, err
	}
	return Programs{Server: server, Agent: agent}, nil
}

func look(dir, name string) (string, error) {
	place := "the PATH"
	file := name
	if dir != "" {
		place, file = dir, filepath.Join(dir, name)
	}
	path, err := exec.LookPath(file)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return "", fmt.Errorf("--spire: no %s on %s: %w; right would be --spire-bin with the directory of a SPIRE release", name, place, err)
	}
	return path, nil
}

// AskVersion asks the server for its version.
func (p Programs) AskVersion(ctx context.Context) (Programs, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, p.Server, "--version").CombinedOutput() //nolint:gosec // what to start is the operator's to say
	if err != nil {
		return p, fmt.Errorf("ask %s for its version: %w: %s", p.Server, err, strings.TrimSpace(string(out)))
	}
	p.Version = strings.TrimSpace(string(out))
	return p, nil
}
