// Package bank starts the bank's real binaries for black-box tests, and is its customers, its operator and its attackers.
//
// A Dist is the project, built. A Home is one directory with the binaries and the deploy files, as a person has it after
// `make build`. A Mesh is what `countersign up` runs there, and an Identity is an SVID that an attested process of the mesh got.
package bank

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Services are the programs that serve gRPC.
func Services() []string {
	return []string{"gateway", "accounts", "payments", "ledger", "risk", "audit", "login"}
}

// InOrder are the Services in an order in which each finds those that it calls.
func InOrder() []string {
	return []string{"audit", "login", "risk", "ledger", "accounts", "payments", "gateway"}
}

// Dist is the project, built once for all tests. It is safe for concurrent use.
type Dist struct {
	// Source is the checkout.
	Source string
	dir    string
}

// Build builds every service and the CLI from the checkout that the test runs in, as `make build` does.
func Build(ctx context.Context) (*Dist, error) {
	source, err := Checkout()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "countersign-dist-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the binaries: %w", err)
	}
	d := &Dist{Source: source, dir: dir}
	packages := []string{"./cmd/countersign", "./services/authority"}
	for _, s := range Services() {
		packages = append(packages, "./services/"+s)
	}
	if err := d.goBuild(ctx, source, []string{"CGO_ENABLED=0"}, packages...); err != nil {
		return nil, errors.Join(err, d.Remove())
	}
	return d, nil
}

// Grpcurl returns the path of the stock grpcurl that tools/ pins: as `make tools` has built it, or built now.
func (d *Dist) Grpcurl(ctx context.Context) (string, error) { return Grpcurl(ctx, d.Source, d.dir) }

// Grpcurl returns the path of the stock grpcurl that a checkout pins: as `make tools` has built it, or built into dir now.
func Grpcurl(ctx context.Context, source, dir string) (string, error) {
	built := filepath.Join(source, "bin", "tools", "grpcurl")
	if _, err := os.Stat(built); err == nil {
		return built, nil
	}
	d := &Dist{Source: source, dir: dir}
	module := filepath.Join(source, "tools", "grpcurl")
	return filepath.Join(dir, "bin", "grpcurl"), d.goBuild(ctx, module, []string{"GOWORK=off"}, "github.com/fullstorydev/grpcurl/cmd/grpcurl")
}

// Remove removes what was built.
func (d *Dist) Remove() error { return os.RemoveAll(d.dir) }

func (d *Dist) goBuild(ctx context.Context, dir string, env []string, packages ...string) error {
	// As `make build`, but for -trimpath: without it all that go vet has compiled already is used again.
	args := append([]string{"build", "-tags=grpcnotrace", "-buildvcs=false", "-ldflags=-s -w", "-o", filepath.Join(d.dir, "bin") + "/"}, packages...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// Checkout finds the directory with go.work above the test's.
func Checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the checkout: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("find the checkout: %w", err)
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("find the checkout: no go.work above the test's directory")
		}
		dir = parent
	}
}
