package policyfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/yamlfile"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

// ErrStale means that a policy file does not have the text any more that another one is to take the place of.
var ErrStale = errors.New("the policy file was changed by somebody else meanwhile")

// Replace puts another text in the place of the file at path, and returns when. The file must have the text before: what somebody else has
// written since that was read is not overwritten, and the error is ErrStale. Writers and symbolic links are treated as by Revoke.
func Replace(ctx context.Context, path, before, after string) (time.Time, error) {
	done, err := update(ctx, path, func(text string) (string, error) {
		if text != before {
			return "", fmt.Errorf("%s: %w", path, ErrStale)
		}
		return after, nil
	})
	return done.at, err
}

// Keep writes a text beside the file at path, for whoever has to put it back by hand, and returns where: the file's own name, followed by
// ".before-" and the version that the text has as a policy. A symbolic link is followed, so that one rename puts the text back.
func Keep(link, version, text string) (path string, err error) {
	original, err := filepath.EvalSymlinks(link)
	if err != nil {
		return "", fmt.Errorf("find the policy file: %w", err)
	}
	info, err := os.Stat(original)
	if err != nil {
		return "", fmt.Errorf("look at the policy: %w", err)
	}
	path = original + ".before-" + version
	if _, err := replace(path, info, text, func() error { return nil }); err != nil {
		return "", fmt.Errorf("keep a copy of the policy: %w", err)
	}
	return path, nil
}

// Missing returns the revocations of one text of a policy file that another text does not have, however it writes them. name is the file's. Neither
// has to be good in all else: revocations must outlive a policy that does not fit the services any more.
func Missing(name, before, after string) ([]*policyv1.Revocation, error) {
	had, subjects, err := revoked(name, before)
	if err != nil {
		return nil, err
	}
	_, has, err := revoked(name, after)
	if err != nil {
		return nil, err
	}
	var missing []*policyv1.Revocation
	for i, r := range had {
		if !slices.Contains(has, subjects[i]) {
			missing = append(missing, r)
		}
	}
	return missing, nil
}

// revoked returns the revocations of a text, and what each of them revokes.
func revoked(name, text string) ([]*policyv1.Revocation, []identity.Revocation, error) {
	var file policyv1.Policy
	document, err := yamlfile.Unmarshal(name, []byte(text), &file)
	if document == nil {
		return nil, nil, err
	}
	own, err := spiffeid.TrustDomainFromString(file.GetTrustDomain())
	if err != nil {
		return nil, nil, fmt.Errorf("%s: trust_domain: %w", name, err)
	}
	var subjects []identity.Revocation
	for _, r := range file.GetRevoked() {
		s, err := subject(own, r)
		if err != nil {
			return nil, nil, err
		}
		subjects = append(subjects, s)
	}
	return file.GetRevoked(), subjects, nil
}
