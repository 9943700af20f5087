// Package policyfile adds revocations to the text of a policy file, and takes them out again, and puts another text in its place.
//
// An edit is one piece of text that goes in at one place: comments, order and spelling of the file stay byte for byte. It is written only
// when the new text is a good policy that says what the old one said and that revocation, nothing more and nothing less. A reader sees
// the old text or the new one, whole.
package policyfile

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
	"github.com/countersign-mesh/countersign/pkg/yamlfile"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

// Change is what Revoke did.
type Change struct {
	// Added is false when the revocation stood there already; the file is as it was then.
	Added bool
	// Entry is where the revocation stands: "bank.yaml:12".
	Entry string
	// Version is the version of the policy that the file holds now, as its servers report it.
	Version string
	// Time is when the new text took the place of the old one.
	Time time.Time
	// Unlocked is set when another process had the file locked for a second, and the change was made all the same.
	Unlocked bool

	entry         *policyv1.Revocation
	before, after string
	// pieces are what to take out again: all that was put in; or, when others have added to a list that began with this entry, the
	// entry alone.
	pieces []string
}

// errLost means that a way of writing the file that this package does not know was damaged by the edit.
var errLost = errors.New("the entry cannot be added without touching the rest of the file; add it under revoked: by hand")

// Revoke adds a revocation to the policy file at path. It may be called by any number of processes at once: each entry is kept. A
// symbolic link stays one: the file that it leads to is replaced. Others that write are waited for, for a second at most: whoever can read
// the file can lock it, and must not be able to hold off a revocation. ctx bounds how often the change is made anew when the file keeps changing.
func Revoke(ctx context.Context, path string, entry *policyv1.Revocation) (Change, error) {
	var change Change
	done, err := update(ctx, path, func(text string) (string, error) {
		var err error
		change, err = revoke(path, text, entry)
		return change.after, err
	})
	if err != nil {
		return Change{}, err
	}
	change.Time, change.Unlocked = done.at, done.unlocked
	return change, nil
}

// Undo takes out again what Revoke has put in. A file that nobody has changed since is then byte for byte what it was before; where others
// have, what they wrote stays.
func Undo(ctx context.Context, path string, change Change) error {
	if !change.Added {
		return nil
	}
	_, err := update(ctx, path, func(text string) (string, error) { return change.undo(path, text) })
	return err
}

func (c Change) undo(name, text string) (string, error) {
	if text == c.after {
		return c.before, nil
	}
	want, document, policy, err := parse(name, text)
	if err != nil {
		return "", err
	}
	index, err := find(want, policy.TrustDomain(), c.entry)
	if err != nil {
		return "", err
	}
	if index < 0 {
		return text, nil
	}
	want.Revoked = slices.Delete(want.GetRevoked(), index, index+1)
	for _, piece := range c.pieces {
		without := strings.Replace(text, piece, "", 1)
		if got, _, _, err := parse(name, without); err == nil && proto.Equal(got, want) {
			return without, nil
		}
	}
	return "", fmt.Errorf("%s: the entry is not as it was added; take it out by hand", entryAt(document, index))
}

// revoke returns the text of a policy file with a revocation added.
func revoke(name, text string, entry *policyv1.Revocation) (Change, error) {
	if err := protovalidate.Validate(entry); err != nil {
		return Change{}, fmt.Errorf("the revocation: %w", err)
	}
	file, document, policy, err := parse(name, text)
	if err != nil {
		return Change{}, err
	}
	index, err := find(file, policy.TrustDomain(), entry)
	if err != nil {
		return Change{}, err
	}
	if index >= 0 {
		return Change{Entry: entryAt(document, index), Version: policy.Version(), before: text, after: text}, nil
	}
	spot, err := locate(text)
	if err != nil {
		return Change{}, fmt.Errorf("%s: %w", name, err)
	}
	body, err := spot.render(entry)
	if err != nil {
		return Change{}, fmt.Errorf("%s: %w", name, err)
	}
	after := text[:spot.offset] + spot.lead + body + text[spot.offset:]
	want := proto.CloneOf(file)
	want.Revoked = slices.Insert(want.GetRevoked(), spot.index, proto.CloneOf(entry))
	got, document, policy, err := parse(name, after)
	if err != nil {
		return Change{}, fmt.Errorf("%w: with it,\n%w", errLost, err)
	}
	if !proto.Equal(got, want) {
		return Change{}, fmt.Errorf("%s: %w", name, errLost)
	}
	return Change{
		Added: true, Entry: entryAt(document, spot.index), Version: policy.Version(),
		entry: entry, before: text, after: after, pieces: []string{spot.lead + body, body},
	}, nil
}

// parse reads a text as the servers will, with the files that it includes.
func parse(name, text string) (*policyv1.Policy, *yamlfile.Document, *policy.Policy, error) {
	compiled, err := policy.Compile(policy.Text(name, nil).WithMain([]byte(text)))
	if err != nil {
		return nil, nil, nil, err
	}
	var file policyv1.Policy
	document, err := yamlfile.Unmarshal(name, []byte(text), &file)
	return &file, document, compiled, err
}

func entryAt(document *yamlfile.Document, index int) string {
	position := document.At("revoked", index)
	return fmt.Sprintf("%s:%d", filepath.Base(position.File), position.Line)
}

// find returns the index of the first entry that revokes what entry revokes, however it is written, and -1 when there is none.
func find(file *policyv1.Policy, own spiffeid.TrustDomain, entry *policyv1.Revocation) (int, error) {
	wanted, err := subject(own, entry)
	if err != nil {
		return 0, err
	}
	for i, r := range file.GetRevoked() {
		got, err := subject(own, r)
		if err != nil {
			return 0, err
		}
		if got == wanted {
			return i, nil
		}
	}
	return -1, nil
}

// subject returns what an entry revokes, in the one form that its spellings have in common.
func subject(own spiffeid.TrustDomain, entry *policyv1.Revocation) (identity.Revocation, error) {
	var r identity.Revocation
	var err error
	switch s := entry.GetSubject().(type) {
	case *policyv1.Revocation_Id:
		r.ID, err = ParseID(own, s.Id)
	case *policyv1.Revocation_Serial:
		r.Serial, err = identity.ParseSerial(s.Serial)
	case *policyv1.Revocation_Authority:
		r.Authority, err = identity.ParseAuthority(s.Authority)
	default:
		err = errors.New("the entry revokes nothing")
	}
	return r, err
}

// ParseID reads a workload's SPIFFE ID as a policy file writes it: whole, or its path alone for one of own's trust domain.
func ParseID(own spiffeid.TrustDomain, text string) (spiffeid.ID, error) {
	if strings.HasPrefix(text, "/") {
		return spiffeid.FromPath(own, text)
	}
	id, err := spiffeid.FromString(text)
	if err == nil && id.Path() == "" {
		err = errors.New("it names a trust domain and no workload")
	}
	return id, err
}

// TrustDomain returns the trust domain that the short IDs of a policy file belong to. It fails when the file is no good policy.
func TrustDomain(path string) (spiffeid.TrustDomain, error) {
	loaded, err := policy.Load(path)
	if err != nil {
		return spiffeid.TrustDomain{}, err
	}
	return loaded.TrustDomain(), nil
}
