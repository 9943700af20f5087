package main

import (
	"errors"
	"fmt"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/contracts"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/site"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

// policyCommand is what there is to do with policy files.
type policyCommand struct {
	Check   policyCheckCommand   `cmd:"" help:"Check a policy file: its own mistakes, and where it and the contracts of the services do not fit each other."`
	Test    policyTestCommand    `cmd:"" help:"Hold a policy file against a table of tests: calls, and what is to be decided on them."`
	Explain policyExplainCommand `cmd:"" help:"Say what is decided on a call, and why; whether the running servers decide the same."`
	Matrix  policyMatrixCommand  `cmd:"" help:"Show who may call what: callers and methods."`
	Graph   policyGraphCommand   `cmd:"" help:"Draw who calls whom, for Mermaid or Graphviz."`
	Diff    policyDiffCommand    `cmd:"" help:"Say what a change of policy means: which peer gains or loses which method."`
	Apply   policyApplyCommand   `cmd:"" help:"Put another policy in place, watch what it denies, and put the old one back when calls are denied that were let in before."`
	Install policyInstallCommand `cmd:"" help:"Put a policy in place where there is none yet, and leave one that is there alone."`
	Learn   policyLearnCommand   `cmd:"" help:"From the audit log: rules that were never used, denials that recur, and the least policy that would do."`
}

// policyFlags are the flags of a command that reads a policy.
type policyFlags struct {
	Policy      string `placeholder:"FILE" help:"The policy file; by default that of the mesh."`
	Descriptors string `placeholder:"FILE" help:"The contracts of the services that the policy is about, as buf build -o FILE writes them. By default those of the bank."`
}

// load reads the policy, with the contracts that it is about.
func (f policyFlags) load(s *session) (*policy.Policy, *contracts.Set, error) {
	set, err := f.contracts()
	if err != nil {
		return nil, nil, err
	}
	path, err := f.path(s)
	if err != nil {
		return nil, nil, err
	}
	loaded, err := policy.Load(path, policy.WithDescriptors(set))
	return loaded, set, err
}

// contracts are those of --descriptors, else the bank's.
func (f policyFlags) contracts() (*contracts.Set, error) {
	if f.Descriptors == "" {
		return contracts.Bank(), nil
	}
	return contracts.Read(f.Descriptors)
}

// path is --policy, else the mesh's file.
func (f policyFlags) path(s *session) (string, error) {
	if f.Policy != "" {
		return f.Policy, nil
	}
	mesh, err := s.mesh.Find()
	if err != nil {
		return "", whichPolicy(err)
	}
	return policyOf(mesh)
}

// policyOf is the policy file of a mesh.
func policyOf(mesh site.Site) (string, error) {
	if mesh.Policy == "" {
		return "", fmt.Errorf("which policy file? Say it with --policy, since %s says no policy", mesh.Name)
	}
	return mesh.Policy, nil
}

// whichPolicy is why no mesh says which policy file is meant.
func whichPolicy(err error) error {
	if errors.Is(err, rundir.ErrNoMesh) {
		return fmt.Errorf("which policy file? Say it with --policy, since %w", err)
	}
	return err
}
