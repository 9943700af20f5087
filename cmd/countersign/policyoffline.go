package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/contracts"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policyfile"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

// unaskedWhy is why no service was asked about a change that is made offline.
const unaskedWhy = "--offline leaves them out."

// replaceUnfit puts the new policy in the place of one that does not compile, as after an upgrade of the contracts, when no service runs with it.
// Nothing can be compared then and nothing watched. What holds all the same: the new policy must be good, the revocations of the old file are
// not lost, and the old file is kept.
func (c *policyApplyCommand) replaceUnfit(ctx context.Context, s *session, path string, set *contracts.Set, unfit error) error {
	before, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the policy in place: %w", err)
	}
	text, err := os.ReadFile(c.New)
	if err != nil {
		return fmt.Errorf("read the new policy: %w", err)
	}
	next, err := policy.Compile(policy.Text(path, nil).WithMain(text), policy.WithDescriptors(set))
	if err != nil {
		return fmt.Errorf("%s, as if it stood in the place of %s:\n%w", c.New, path, err)
	}
	if err := c.fits(next, set); err != nil {
		return err
	}
	s.out.Printf("%s: policy %s takes the place of one that cannot be compared with it: %v\n", path, next.Version(), unfit)
	if err := c.keepsRevocations(path, before, text); err != nil || c.DryRun {
		return err
	}
	if !c.Yes {
		if err := confirm(ctx, s); err != nil {
			return err
		}
	}
	return replaceKept(ctx, s, path, before, text)
}

// replaceKept puts a text in the place of another, which is kept.
func replaceKept(ctx context.Context, s *session, path string, before, after []byte) error {
	kept, err := policyfile.Keep(path, fmt.Sprintf("%x", sha256.Sum256(before))[:16], string(before)) // it has no version
	if err != nil {
		return fmt.Errorf("nothing was changed: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, writeBound)
	defer cancel()
	if _, err := policyfile.Replace(ctx, path, string(before), string(after)); err != nil {
		if now, readErr := os.ReadFile(path); readErr == nil && bytes.Equal(now, before) {
			err = errors.Join(err, os.Remove(kept)) //nolint:gosec // the copy that was made above, beside the policy file
		}
		return err
	}
	s.out.Printf("The new policy is in place, and the old one kept in %s.\nNo service was asked: %s\n", kept, unaskedWhy)
	return nil
}
