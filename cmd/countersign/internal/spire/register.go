package spire

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"

	registrationv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/registration/v1"
)

// Outcome is what Register found and did.
type Outcome struct {
	Created, Updated, Removed, Unchanged int
	// Others are entries of the file that somebody else has made already.
	Others int
	// Skipped are entries of the file that SPIRE does not attest.
	Skipped int
}

// String says it in a line.
func (o Outcome) String() string {
	text := fmt.Sprintf("%d entries created, %d updated, %d removed, %d as they were", o.Created, o.Updated, o.Removed, o.Unchanged)
	if o.Others > 0 {
		text += fmt.Sprintf("; %d were there already, made by somebody else", o.Others)
	}
	if o.Skipped > 0 {
		text += fmt.Sprintf("; %d are for the embedded authority only", o.Skipped)
	}
	return text
}

// Register makes the server's entries of a node those of the file. Entries that it has not made itself it leaves alone. Done again it does
// nothing more.
func (s *Server) Register(ctx context.Context, file *registrationv1.Registration, name string) (Outcome, error) {
	if err := CheckNode(name); err != nil {
		return Outcome{}, fmt.Errorf("--node: %w", err)
	}
	td, err := spiffeid.TrustDomainFromString(file.GetTrustDomain())
	if err != nil {
		return Outcome{}, fmt.Errorf("trust_domain: %w", err)
	}
	n := node{name: name, td: td}
	wanted, skipped, err := n.wanted(file)
	if err != nil {
		return Outcome{}, err
	}
	bundle, err := s.bundle(ctx)
	if err != nil {
		return Outcome{}, err
	}
	if got := bundle.GetTrustDomain(); got != td.Name() {
		return Outcome{}, fmt.Errorf("the SPIRE server at %s is of the trust domain %q, and the registration file of %q", s.socket, got, td.Name())
	}
	c, err := s.changes(ctx, n, wanted)
	if err != nil {
		return Outcome{}, err
	}
	outcome := Outcome{Unchanged: c.unchanged, Skipped: skipped}
	if err := s.apply(ctx, c, &outcome); err != nil {
		return outcome, fmt.Errorf("register the entries at the SPIRE server: %w", err)
	}
	return outcome, nil
}

// changes compares what the server has of ours with what is wanted.
func (s *Server) changes(ctx context.Context, n node, wanted []*types.Entry) (change, error) {
	own, err := s.own(ctx, n, n.id())
	if err != nil {
		return change{}, err
	}
	aliases, err := s.own(ctx, n, n.alias().GetParentId())
	if err != nil {
		return change{}, err
	}
	c := n.plan(own, wanted)
	n.planAlias(aliases, &c)
	return c, nil
}

// own lists our own entries of a node that have the same parent.
func (s *Server) own(ctx context.Context, n node, parent *types.SPIFFEID) ([]*types.Entry, error) {
	var own []*types.Entry
	for token := ""; ; {
		bounded, cancel := context.WithTimeout(ctx, answerTime)
		page, err := s.entries.ListEntries(bounded, &entryv1.ListEntriesRequest{
			Filter: &entryv1.ListEntriesRequest_Filter{ByParentId: parent}, PageSize: 500, PageToken: token,
		})
		cancel()
		if err != nil {
			return nil, fmt.Errorf("list the SPIRE server's entries: %w", err)
		}
		for _, e := range page.GetEntries() {
			if strings.HasPrefix(e.GetId(), n.prefix()) {
				own = append(own, e)
			}
		}
		if token = page.GetNextPageToken(); token == "" {
			return own, nil
		}
	}
}

// apply makes a change, and counts what of it was made. What gives too much goes first, and nothing keeps the rest from being done: an entry
// that the server does not take must not leave another one with rights that somebody gave it.
func (s *Server) apply(ctx context.Context, c change, outcome *Outcome) error {
	var errs [4]error
	outcome.Removed, errs[0] = s.remove(ctx, c.remove)
	outcome.Updated, errs[1] = s.update(ctx, c.update)
	outcome.Created, outcome.Others, errs[2] = s.create(ctx, c.create)
	_, _, errs[3] = s.create(ctx, c.alias)
	return errors.Join(errs[:]...)
}

// create makes entries and returns how many of them were not there before, and how many were.
func (s *Server) create(ctx context.Context, entries []*types.Entry) (created, others int, err error) {
	if len(entries) == 0 {
		return 0, 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	response, err := s.entries.BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{Entries: entries, OutputMask: &types.EntryMask{}})
	if err != nil {
		return 0, 0, err
	}
	if err := answered(len(entries), len(response.GetResults())); err != nil {
		return 0, 0, err
	}
	var errs []error
	for i, e := range entries {
		result := response.GetResults()[i]
		switch codes.Code(result.GetStatus().GetCode()) { //nolint:gosec // a code as gRPC has them
		case codes.OK:
			created++
		case codes.AlreadyExists:
			others++
		default:
			errs = append(errs, fmt.Errorf("create the entry of %s: %s", e.GetSpiffeId().GetPath(), result.GetStatus().GetMessage()))
		}
	}
	return created, others, errors.Join(errs...)
}

// update puts everything right that an entry gives.
func (s *Server) update(ctx context.Context, entries []*types.Entry) (updated int, err error) {
	if len(entries) == 0 {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	response, err := s.entries.BatchUpdateEntry(ctx, &entryv1.BatchUpdateEntryRequest{
		Entries: entries, OutputMask: &types.EntryMask{},
		InputMask: &types.EntryMask{
			SpiffeId: true, Selectors: true, X509SvidTtl: true, JwtSvidTtl: true, FederatesWith: true, Admin: true, Downstream: true, ExpiresAt: true, DnsNames: true,
			StoreSvid: true, Hint: true, AdditionalAttributes: true,
		},
	})
	if err != nil {
		return 0, err
	}
	if err := answered(len(entries), len(response.GetResults())); err != nil {
		return 0, err
	}
	var errs []error
	for i, e := range entries {
		result := response.GetResults()[i]
		if codes.Code(result.GetStatus().GetCode()) != codes.OK { //nolint:gosec // a code as gRPC has them
			errs = append(errs, fmt.Errorf("update the entry of %s: %s", e.GetSpiffeId().GetPath(), result.GetStatus().GetMessage()))
			continue
		}
		updated++
	}
	return updated, errors.Join(errs...)
}

// answered refuses an answer that says nothing of some entries, or speaks of others.
func answered(asked, results int) error {
	if asked != results {
		return fmt.Errorf("it answers for %d entries of %d", results, asked)
	}
	return nil
}

// remove removes entries. One that is gone already is no error.
func (s *Server) remove(ctx context.Context, ids []string) (removed int, err error) {
	if len(ids) == 0 {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	response, err := s.entries.BatchDeleteEntry(ctx, &entryv1.BatchDeleteEntryRequest{Ids: ids})
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, result := range response.GetResults() {
		switch codes.Code(result.GetStatus().GetCode()) { //nolint:gosec // a code as gRPC has them
		case codes.OK:
			removed++
		case codes.NotFound:
		default:
			errs = append(errs, fmt.Errorf("remove the entry %s: %s", result.GetId(), result.GetStatus().GetMessage()))
		}
	}
	return removed, errors.Join(errs...)
}
