package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"
	"unicode/utf8"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/admin"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policyfile"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
	"github.com/countersign-mesh/countersign/pkg/identity"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

type revokeCommand struct {
	workload
	ID        string `xor:"subject" placeholder:"ID" help:"A workload, such as /risk or spiffe://bank.test/risk: every SVID that it has or will get."`
	Serial    string `xor:"subject" placeholder:"HEX" help:"One SVID, by its serial number in hexadecimal; countersign peers shows it."`
	Authority string `xor:"subject" placeholder:"HEX" help:"A signing certificate, root or intermediate, by its subject key ID in hexadecimal: whatever it signed."`
	Why       string `placeholder:"TEXT" help:"Why, for whoever reviews the file."`
	Policy    string `placeholder:"FILE" help:"The policy file; by default that of the mesh that runs in --run-dir."`
	Force     bool   `help:"Also when it is this process itself that is revoked."`
}

const (
	// writeBound is how long the file may be in the hands of others, askBound how long the services may take to heed it.
	writeBound = 5 * time.Second
	askBound   = 5 * time.Second
	// maxWhy is the policy file's limit (mesh.policy.v1.Revocation).
	maxWhy = 500
)

// Validate implements kong's check of a command.
func (c *revokeCommand) Validate() error {
	var errs []error
	switch {
	case c.ID != "":
		// Whatever the trust domain is: the file says it.
		if _, err := policyfile.ParseID(spiffeid.RequireTrustDomainFromString("bank.test"), c.ID); err != nil {
			errs = append(errs, fmt.Errorf("--id: %q is no workload's SPIFFE ID: %w; right would be /risk or spiffe://bank.test/risk", c.ID, err))
		}
	case c.Serial != "":
		if _, err := identity.ParseSerial(c.Serial); err != nil {
			errs = append(errs, fmt.Errorf("--serial: %w", err))
		}
	case c.Authority != "":
		if _, err := identity.ParseAuthority(c.Authority); err != nil {
			errs = append(errs, fmt.Errorf("--authority: %w", err))
		}
	default:
		errs = append(errs, errors.New("whom? Say one of --id, --serial and --authority; right would be --id /risk"))
	}
	if n := utf8.RuneCountInString(c.Why); n > maxWhy || !utf8.ValidString(c.Why) {
		errs = append(errs, fmt.Errorf("--why: right would be up to %d characters of UTF-8; these are %d", maxWhy, n))
	}
	return errors.Join(errs...)
}

func (c *revokeCommand) Run(ctx context.Context, s *session) (err error) {
	place, err := c.place(s)
	if err != nil {
		return err
	}
	own, err := policyfile.TrustDomain(place.policy)
	if err != nil {
		return err
	}
	entry, what, err := c.entry(own)
	if err != nil {
		return err
	}
	self, selfErr := c.self(ctx, s, place)
	if self != nil {
		defer func() { err = errors.Join(err, self.Close()) }()
		if err := c.spareSelf(self, what); err != nil {
			return err
		}
	}
	bounded, cancel := context.WithTimeout(ctx, writeBound)
	defer cancel()
	change, err := policyfile.Revoke(bounded, place.policy, entry)
	if err != nil {
		return err
	}
	if !change.Added {
		s.out.Printf("%s revokes %s already; nothing was changed.\n", change.Entry, describe(what))
		return nil
	}
	s.out.Printf("%s revokes %s.\n", change.Entry, describe(what))
	switch {
	case place.unasked != "":
		s.out.Printf("No service was asked: %s\n", place.unasked)
		return nil
	case selfErr != nil:
		return fmt.Errorf("the revocation is written, but no service could be asked whether it is in force: %w", selfErr)
	}
	return followUp(ctx, s, self, place.services, admin.Revoked{What: what, Version: change.Version, Time: change.Time})
}

// place is where a revocation is written, and who has to heed it.
type place struct {
	policy   string
	services []rundir.Program
	// unasked is why there is nobody to ask.
	unasked string
}

// place finds the policy file and the services that read it.
func (c *revokeCommand) place(s *session) (place, error) {
	record, err := s.dir.Running()
	switch {
	case errors.Is(err, rundir.ErrNoMesh) && c.Policy == "":
		return place{}, fmt.Errorf("which policy file? Say it with --policy, since %w", err)
	case errors.Is(err, rundir.ErrNoMesh):
		return place{policy: c.Policy, unasked: fmt.Sprintf("no mesh runs in %s.", s.dir)}, nil
	case err != nil:
		return place{}, err
	}
	found := place{policy: record.Policy}
	if c.Policy != "" {
		found.policy = c.Policy
		if same, err := sameFile(c.Policy, record.Policy); err != nil {
			return place{}, fmt.Errorf("--policy: %w", err)
		} else if !same {
			found.unasked = fmt.Sprintf("the mesh in %s reads another file, %s.", s.dir, record.Policy)
			return found, nil
		}
	}
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

// entry is the revocation as the file has it, and what it means.
func (c *revokeCommand) entry(own spiffeid.TrustDomain) (entry *policyv1.Revocation, what identity.Revocation, err error) {
	entry = &policyv1.Revocation{Why: c.Why}
	switch {
	case c.ID != "":
		entry.Subject = &policyv1.Revocation_Id{Id: c.ID}
		what.ID, err = policyfile.ParseID(own, c.ID)
	case c.Serial != "":
		what.Serial, err = identity.ParseSerial(c.Serial)
		entry.Subject = &policyv1.Revocation_Serial{Serial: what.Serial}
	default:
		what.Authority, err = identity.ParseAuthority(c.Authority)
		entry.Subject = &policyv1.Revocation_Authority{Authority: what.Authority}
	}
	return entry, what, err
}

// self is this process's identity. Without one a revocation can still be written: an authority that is down is no reason to put up with a
// workload that was broken into. It is nil without an error when there is nobody to be asked and no Workload API is named.
func (c *revokeCommand) self(ctx context.Context, s *session, at place) (*dial.Workload, error) {
	if at.unasked != "" && c.Socket == "" {
		return nil, nil //nolint:nilnil // see above
	}
	endpoint, err := dial.Endpoint(c.Socket, s.dir)
	if err != nil {
		return nil, err
	}
	return dial.Open(ctx, endpoint, slog.New(slog.DiscardHandler))
}

// spareSelf fails when the revocation would lock out the one who makes it.
func (c *revokeCommand) spareSelf(self *dial.Workload, what identity.Revocation) error {
	flag, err := ownPart(self, what)
	if err != nil || flag == "" || c.Force {
		return err
	}
	return fmt.Errorf("%s: that is this process's own, %s: it could not ask about anything any more; if that is meant, add --force", flag, self.ID())
}

// ownPart returns the flag that names something of this process's own identity, and "" when none does.
func ownPart(self *dial.Workload, what identity.Revocation) (flag string, err error) {
	svid, err := self.GetX509SVID()
	if err != nil {
		return "", err
	}
	if what.ID == svid.ID {
		return "--id", nil
	}
	if what.Serial != "" && what.Serial == self.Status().Serial {
		return "--serial", nil
	}
	if what.Authority == "" {
		return "", nil
	}
	bundle, err := self.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
	if err != nil {
		return "", err
	}
	chain := svid.Certificates
	for _, cert := range chain[1:] {
		if identity.AuthorityOf(cert) == what.Authority {
			return "--authority", nil
		}
	}
	for _, root := range bundle.X509Authorities() {
		if identity.AuthorityOf(root) == what.Authority && chain[len(chain)-1].CheckSignatureFrom(root) == nil {
			return "--authority", nil
		}
	}
	return "", nil
}

func describe(what identity.Revocation) string {
	switch {
	case !what.ID.IsZero():
		return what.ID.String()
	case what.Serial != "":
		return "the SVID with the serial number " + what.Serial
	default:
		return "the authority " + what.Authority
	}
}
