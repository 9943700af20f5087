package spire

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/protobuf/proto"

	registrationv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/registration/v1"
)

// node is one node as the entries have it.
type node struct {
	name string
	td   spiffeid.TrustDomain
}

// id is the node's SPIFFE ID, the parent of its workloads' entries.
func (n node) id() *types.SPIFFEID {
	return &types.SPIFFEID{TrustDomain: n.td.Name(), Path: "/countersign/node/" + n.name}
}

// prefix is what the IDs of all our entries of the node begin with. What begins otherwise is somebody else's, and is left alone.
func (n node) prefix() string { return "countersign." + n.name + "." }

// alias gives the node's ID to every agent that attests under its name.
func (n node) alias() *types.Entry {
	return &types.Entry{
		Id:        n.prefix() + "node",
		SpiffeId:  n.id(),
		ParentId:  &types.SPIFFEID{TrustDomain: n.td.Name(), Path: "/spire/server"},
		Selectors: []*types.Selector{{Type: "x509pop", Value: "subject:cn:" + n.name}},
	}
}

// wanted returns the entries of a file that SPIRE attests, in the file's order and without IDs yet, and how many it does not.
func (n node) wanted(file *registrationv1.Registration) (list []*types.Entry, skipped int, err error) {
	var errs []error
	seen := make(map[string]int)
	for i, entry := range file.GetEntries() {
		if slices.ContainsFunc(entry.GetSelectors(), func(s string) bool { return strings.HasPrefix(s, "socket:") }) {
			skipped++
			continue
		}
		converted, err := n.convert(entry)
		if err != nil {
			errs = append(errs, fmt.Errorf("entry %d, %s: %w", i+1, entry.GetSpiffeId(), err))
			continue
		}
		if before, twice := seen[key(converted)]; twice {
			errs = append(errs, fmt.Errorf("entry %d, %s: entry %d gives the same identity to the same processes", i+1, entry.GetSpiffeId(), before))
		}
		seen[key(converted)] = i + 1
		list = append(list, converted)
	}
	return list, skipped, errors.Join(errs...)
}

func (n node) convert(entry *registrationv1.Entry) (*types.Entry, error) {
	id, err := n.parseID(entry.GetSpiffeId())
	if err != nil {
		return nil, err
	}
	ttl, err := seconds(entry)
	if err != nil {
		return nil, err
	}
	converted := &types.Entry{
		ParentId: n.id(), SpiffeId: &types.SPIFFEID{TrustDomain: id.TrustDomain().Name(), Path: id.Path()},
		DnsNames: entry.GetDnsNames(), Hint: entry.GetHint(), X509SvidTtl: ttl,
	}
	for _, selector := range entry.GetSelectors() {
		kind, value, _ := strings.Cut(selector, ":")
		if path, ok := strings.CutPrefix(selector, "unix:path:"); ok && !filepath.IsAbs(path) {
			return nil, fmt.Errorf("selector %q: SPIRE knows absolute paths only; name the directory of the programs with --bin", selector)
		}
		converted.Selectors = append(converted.Selectors, &types.Selector{Type: kind, Value: value})
	}
	return converted, nil
}

// seconds is how long an entry's SVIDs live as SPIRE has it; 0 is the server's default.
func seconds(entry *registrationv1.Entry) (int32, error) {
	if entry.GetSvidTtl() == nil {
		return 0, nil
	}
	ttl := entry.GetSvidTtl().AsDuration()
	if ttl < shortestSVID {
		return 0, fmt.Errorf("svid_ttl: %v is too short for SPIRE, whose agent would renew without a pause; right would be %v or more", ttl, shortestSVID)
	}
	if ttl%time.Second != 0 {
		return 0, fmt.Errorf("svid_ttl: %v has a fraction of a second, and SPIRE counts whole ones; right would be %v", ttl, ttl.Truncate(time.Second))
	}
	return int32(ttl / time.Second), nil //nolint:gosec // the schema has it within a day
}

func (n node) parseID(text string) (spiffeid.ID, error) {
	if strings.HasPrefix(text, "/") {
		return spiffeid.FromPath(n.td, text)
	}
	id, err := spiffeid.FromString(text)
	if err == nil && id.TrustDomain() != n.td {
		err = fmt.Errorf("it is not in the trust domain %q", n.td.Name())
	}
	return id, err
}

// key is what SPIRE tells entries of one parent apart by.
func key(e *types.Entry) string {
	selectors := make([]string, 0, len(e.GetSelectors()))
	for _, s := range e.GetSelectors() {
		selectors = append(selectors, s.GetType()+":"+s.GetValue())
	}
	slices.Sort(selectors)
	return e.GetSpiffeId().GetPath() + "\x00" + strings.Join(selectors, "\x00")
}

// entryID is the ID of our entry at a place in the order. An agent hands a workload that matches several entries its identities in the order of
// their IDs, and the file has it that the first is the default.
func (n node) entryID(rank int, e *types.Entry) string {
	sum := sha256.Sum256([]byte(key(e)))
	return fmt.Sprintf("%s%09d.%s", n.prefix(), rank, hex.EncodeToString(sum[:8]))
}

// rank reads the place in the order back from an ID; 0 when there is none in it.
func (n node) rank(id string) int {
	text, _, _ := strings.Cut(strings.TrimPrefix(id, n.prefix()), ".")
	rank, err := strconv.Atoi(text)
	if err != nil || rank < 0 {
		return 0
	}
	return rank
}

// rankSpacing leaves room for entries that come between others later.
const rankSpacing = 1000

// ranks gives each entry a rank above that of the one before it, and as many as it can the rank that they have: with another one an entry has
// to be made anew. 0 has none yet.
func ranks(old []int) []int {
	ranked := make([]int, len(old))
	last := 0
	for i, rank := range old {
		if rank <= last {
			rank = last + rankSpacing
			if next := slices.IndexFunc(old[i+1:], func(r int) bool { return r > last }); next >= 0 {
				rank = min(rank, last+max(1, (old[i+1+next]-last)/2))
			}
		}
		ranked[i], last = rank, rank
	}
	return ranked
}

// change is what makes the entries that are there those that are wanted.
type change struct {
	remove         []string
	create, update []*types.Entry
	alias          []*types.Entry // the node's own when it has to be made; it is not in the file, and is not counted as if it were
	unchanged      int
}

// plan compares our own entries that are there with those that are wanted, which are in order.
func (n node) plan(own, wanted []*types.Entry) change {
	have := make(map[string]*types.Entry, len(own))
	for _, e := range own {
		have[key(e)] = e
	}
	old := make([]int, len(wanted))
	for i, e := range wanted {
		old[i] = n.rank(have[key(e)].GetId())
	}
	var c change
	for i, rank := range ranks(old) {
		e := proto.CloneOf(wanted[i])
		e.Id = n.entryID(rank, e)
		before := have[key(e)]
		switch {
		case before.GetId() != e.GetId():
			c.create = append(c.create, e)
			continue // what was there under another ID has to go first
		case same(before, e):
			c.unchanged++
		default:
			c.update = append(c.update, e)
		}
		delete(have, key(e))
	}
	for _, e := range have {
		c.remove = append(c.remove, e.GetId())
	}
	slices.Sort(c.remove)
	return c
}

// planAlias compares the node's entry with those of ours that are beside it. Nothing else of ours belongs there.
func (n node) planAlias(own []*types.Entry, c *change) {
	alias := n.alias()
	c.alias = []*types.Entry{alias}
	for _, e := range own {
		switch {
		case e.GetId() != alias.GetId():
			c.remove = append(c.remove, e.GetId())
			continue
		case !same(e, alias):
			c.update = append(c.update, alias)
		}
		c.alias = nil
	}
}

// same reports whether two entries give the same: whatever somebody else has changed in ours is put back.
func same(a, b *types.Entry) bool {
	if key(a) != key(b) { // which knows that selectors have no order
		return false
	}
	a, b = proto.CloneOf(a), proto.CloneOf(b)
	for _, e := range []*types.Entry{a, b} {
		e.RevisionNumber, e.CreatedAt, e.Selectors = 0, 0, nil
		if !e.GetAdditionalAttributes().GetDisableX509SvidPrefetch() {
			e.AdditionalAttributes = nil
		}
	}
	return proto.Equal(a, b)
}
