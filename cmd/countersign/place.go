package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/site"
)

// place is a policy file that is to be changed, and who has to heed that.
type place struct {
	policy   string
	services []site.Service
	// unasked is why there is nobody to ask.
	unasked string
}

// findPlace finds the policy file, by default the mesh's, and the services that read it. A file that is named by a link is the mesh's all
// the same, and has the mesh's name then: what it includes is read beside that.
func findPlace(s *session, policy string) (place, error) {
	mesh, err := s.mesh.Find()
	switch {
	case errors.Is(err, rundir.ErrNoMesh) && policy != "":
		return place{policy: policy, unasked: fmt.Sprintf("no mesh runs in %s.", s.dir)}, nil
	case err != nil:
		return place{}, whichPolicy(err)
	case policy == "":
		policy, err = policyOf(mesh)
		return place{policy: policy, services: mesh.Services}, err
	case mesh.Policy == "":
		return place{policy: policy, unasked: fmt.Sprintf("%s does not say which policy file its services read.", mesh.Name)}, nil
	}
	same, err := sameFile(policy, mesh.Policy)
	if err != nil {
		return place{}, fmt.Errorf("--policy: %w", err)
	}
	if !same {
		return place{policy: policy, unasked: fmt.Sprintf("%s reads another file, %s.", mesh.Name, mesh.Policy)}, nil
	}
	return place{policy: mesh.Policy, services: mesh.Services}, nil
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
