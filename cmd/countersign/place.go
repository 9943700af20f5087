package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
)

// place is a policy file that is to be changed, and who has to heed that.
type place struct {
	policy   string
	services []rundir.Program
	// unasked is why there is nobody to ask.
	unasked string
}

// findPlace finds the policy file, by default that of the mesh that runs, and the services that read it. A file that is named by a link is the mesh's all
// the same, and has the mesh's name then: what it includes is read beside that.
func findPlace(s *session, policy string) (place, error) {
	record, err := s.dir.Running()
	switch {
	case errors.Is(err, rundir.ErrNoMesh) && policy == "":
		return place{}, fmt.Errorf("which policy file? Say it with --policy, since %w", err)
	case errors.Is(err, rundir.ErrNoMesh):
		return place{policy: policy, unasked: fmt.Sprintf("no mesh runs in %s.", s.dir)}, nil
	case err != nil:
		return place{}, err
	}
	if policy != "" {
		if same, err := sameFile(policy, record.Policy); err != nil {
			return place{}, fmt.Errorf("--policy: %w", err)
		} else if !same {
			return place{policy: policy, unasked: fmt.Sprintf("the mesh in %s reads another file, %s.", s.dir, record.Policy)}, nil
		}
	}
	found := place{policy: record.Policy}
	for _, program := range record.Programs {
		if program.Address != "" {
			found.services = append(found.services, program)
		}
	}
	return found, nil
}

func sameFile(a, b string) (bool, error) {
	first, err := filepath.EvalSymlinks(a)
	if err != nil {
		return false, err
	}
	second, err := filepath.EvalSymlinks(b)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	infoA, errA := os.Stat(first)
	infoB, errB := os.Stat(second)
	return os.SameFile(infoA, infoB), errors.Join(errA, errB)
}
