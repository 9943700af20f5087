package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
	"unicode/utf8"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/admin"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policyfile"
	"github.com/countersign-mesh/countersign/pkg/identity"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

type revokeCommand struct {
	workload
	ID        string `xor:"subject" placeholder:"ID" help:"A workload, such as /risk or spiffe://bank.test/risk: every SVID that it has or will get."`
	Serial    string `xor:"subject" placeholder:"HEX" help:"One SVID, by its serial number in hexadecimal, which countersign peers shows under SERIAL."`
	Authority string `xor:"subject" placeholder:"HEX" help:"A signing certificate, root or intermediate, by its subject key ID in hexadecimal: whatever it signed. countersign peers shows the one at the end of each peer's chain under AUTHORITY."`
	Why       string `placeholder:"TEXT" help:"Why, for whoever reviews the file."`
	Policy    string `placeholder:"FILE" help:"The policy file; by default that of the mesh."`
	Force     bool   `help:"Write it at once: also when it is this process itself that is revoked, or a serial number that several have."`
}

const (
	// spareBound is how long it may take to find out whom else the revocation would hit, before it is written.
	spareBound = time.Second
	// writeBound is how long the file may keep changing, askBound how long the services may take to heed it.
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
	place, err := findPlace(s, c.Policy)
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
	var self *dial.Workload
	defer func() { err = errors.Join(err, closeWorkload(self)) }()
	if !c.Force {
		if self, err = c.spare(ctx, s, place, what); err != nil {
			return err
		}
	}
	change, err := write(ctx, s, place.policy, entry, what)
	if err != nil || !change.Added {
		return err
	}
	if place.unasked != "" {
		s.out.Printf("No service was asked: %s\n", place.unasked)
		return nil
	}
	if self == nil {
		if self, err = c.self(ctx, s); err != nil {
			return fmt.Errorf("the revocation is written, but no service could be asked whether it is in force: %w", err)
		}
	}
	return followUp(ctx, s, self, place.services, admin.Revoked{What: what, Version: change.Version, Time: change.Time})
}

// write puts the revocation into the policy file, and says what it did.
func write(ctx context.Context, s *session, path string, entry *policyv1.Revocation, what identity.Revocation) (policyfile.Change, error) {
	ctx, cancel := context.WithTimeout(ctx, writeBound)
	defer cancel()
	change, err := policyfile.Revoke(ctx, path, entry)
	if err != nil {
		return policyfile.Change{}, err
	}
	if !change.Added {
		s.out.Printf("%s revokes %s already; nothing was changed.\n", change.Entry, describe(what))
		return change, nil
	}
	s.out.Printf("%s revokes %s.\n", change.Entry, describe(what))
	if change.Unlocked {
		s.out.Printf("Another process keeps the file locked. After a second it was not waited for any longer.\n")
	}
	return change, nil
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

// self is this process's identity. The caller closes it.
func (c *revokeCommand) self(ctx context.Context, s *session) (*dial.Workload, error) {
	endpoint, err := s.mesh.Endpoint(c.Socket)
	if err != nil {
		return nil, err
	}
	return dial.Open(ctx, endpoint, slog.New(slog.DiscardHandler))
}

func closeWorkload(w *dial.Workload) error {
	if w == nil {
		return nil
	}
	return w.Close()
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
