package chain_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/countersign-mesh/countersign/pkg/audit/chain"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// trail returns twelve records of two servers with two gaps, one after which a run goes on far later. The first unchained ones have no hash.
func trail(unchained int) []*auditv1.StoredRecord {
	records := []*auditv1.StoredRecord{
		decision(ledger, run1, 1), decision(ledger, run1, 2), decision(risk, run1, 1), decision(ledger, run1, 3),
		gap(ledger, run1, 4, 9), decision(ledger, run1, 5), decision(risk, run1, 2), gap(ledger, run1, 8, 3),
		decision(ledger, run1, 9), decision(ledger, run2, 1), decision(ledger, run2, 2), decision(risk, run1, 3),
	}
	var h chain.Hash
	for i, r := range records {
		r.Position, r.StoreTime = int64(i+1), at(int64(100+i))
		if i < unchained {
			h = chain.Seal(h, r)
			continue
		}
		h = chain.Next(h, r)
		r.Hash = slices.Clone(h[:])
	}
	return records
}

// rehash gives a record the hash that it has after the one before it.
func rehash(records []*auditv1.StoredRecord, i int) {
	var before chain.Hash
	if i > 0 {
		before = chain.Hash(records[i-1].GetHash())
	}
	h := chain.Next(before, records[i])
	records[i].Hash = h[:]
}

func swap(records []*auditv1.StoredRecord, i, j int) {
	records[i], records[j] = records[j], records[i]
	records[i].Position, records[j].Position = int64(i+1), int64(j+1)
}

func verify(records []*auditv1.StoredRecord, expected ...chain.Head) chain.Report {
	v := chain.NewVerifier(expected...)
	for _, r := range records {
		v.Add(r)
	}
	return v.Report()
}

func head(r *auditv1.StoredRecord) chain.Head {
	return chain.Head{Position: r.GetPosition(), Hash: chain.Hash(r.GetHash())}
}

func found(report chain.Report) []string {
	out := []string{}
	for _, f := range report.Findings {
		out = append(out, fmt.Sprintf("%s %d", f.Kind, f.Position))
	}
	return out
}

func TestASoundTrailIsCounted(t *testing.T) {
	t.Parallel()
	for _, unchained := range []int{0, 1, 5, 11} {
		records := trail(unchained)
		got := verify(records, head(records[11]))
		want := chain.Report{Records: 12, Unchained: int64(unchained), Gaps: 2, Lost: 12, Head: head(records[11])}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%d unchained: the report differs (-want +got):\n%s", unchained, diff)
		}
	}
	if got := verify(nil, chain.Head{}); got.Found != 0 || got.Head != (chain.Head{}) {
		t.Errorf("an empty trail: %+v", got)
	}
}

// ATTACKS 65: edited, deleted, reordered and truncated records are found, each by its name, and nothing else is accused.
func TestWhatWasDoneToATrailIsFound(t *testing.T) {
	t.Parallel()
	type records = []*auditv1.StoredRecord
	for name, test := range map[string]struct {
		unchained int
		tamper    func(records) records
		want      []string
	}{
		"a verdict turned": {0, func(r records) records {
			r[5].GetDecision().Verdict = auditv1.Verdict_VERDICT_ALLOWED
			return r
		}, []string{"changed 6"}},
		"the first one changed": {0, func(r records) records { r[0].GetDecision().PeerId = risk; return r }, []string{"changed 1"}},
		"the last one changed":  {0, func(r records) records { r[11].GetDecision().PeerId = risk; return r }, []string{"changed 12"}},
		"two of them changed": {0, func(r records) records {
			r[3].GetDecision().Reason, r[7].GetGap().LostCount = "", 2
			return r
		}, []string{"changed 4", "changed 8"}},
		"two in a row changed": {0, func(r records) records {
			r[3].GetDecision().Reason, r[4].GetGap().LostCount = "", 2
			return r
		}, []string{"changed 4", "changed 5"}},
		"a hash changed alone":           {0, func(r records) records { r[5].Hash[7] ^= 1; return r }, []string{"changed 6"}},
		"two hashes in a row":            {0, func(r records) records { r[5].Hash[7] ^= 1; r[6].Hash[7] ^= 1; return r }, []string{"changed 6", "changed 7"}},
		"a hash cut short":               {0, func(r records) records { r[5].Hash = r[5].GetHash()[:31]; return r }, []string{"unchained 6"}},
		"changed with its hash anew":     {0, func(r records) records { r[5].GetDecision().PeerId = risk; rehash(r, 5); return r }, []string{"changed 7"}},
		"the server's name in the event": {0, func(r records) records { r[5].GetDecision().ServerId = risk; return r }, []string{"changed 6"}},
		"a hash taken away":              {0, func(r records) records { r[5].Hash = nil; return r }, []string{"unchained 6"}},
		"a hash taken away and changed":  {0, func(r records) records { r[5].Hash = nil; r[5].GetDecision().PeerId = risk; return r }, []string{"unchained 6", "changed 7"}},
		"all hashes taken away but one": {0, func(r records) records {
			for i := range 11 {
				r[i].Hash = nil
			}
			return r
		}, []string{"changed 12"}},
		"the first one deleted": {0, func(r records) records { return r[1:] }, []string{"missing 1"}},
		"one deleted":           {0, func(r records) records { return slices.Delete(r, 5, 6) }, []string{"missing 6"}},
		"three deleted":         {0, func(r records) records { return slices.Delete(r, 4, 7) }, []string{"missing 5"}},
		"one deleted and the next changed, which cannot be seen, and another": {0, func(r records) records {
			r[8].GetDecision().PeerId = risk
			return slices.Delete(r, 5, 6)
		}, []string{"missing 6", "changed 9"}},
		"one deleted and the rest moved up": {0, func(r records) records {
			r = slices.Delete(r, 8, 9)
			for i := 8; i < len(r); i++ {
				r[i].Position--
			}
			return r
		}, []string{"changed 9", "changed 10", "changed 11"}},
		"one deleted and all computed anew": {0, func(r records) records {
			r = slices.Delete(r, 3, 4)
			for i := 3; i < len(r); i++ {
				r[i].Position--
				rehash(r, i)
			}
			return r
		}, []string{"missing 4"}},
		"two swapped":             {0, func(r records) records { swap(r, 2, 8); return r }, []string{"moved 3", "moved 9"}},
		"two neighbours swapped":  {0, func(r records) records { swap(r, 5, 6); return r }, []string{"moved 6", "moved 7"}},
		"the first and the last":  {0, func(r records) records { swap(r, 0, 11); return r }, []string{"moved 1", "moved 12"}},
		"three moved in a circle": {0, func(r records) records { swap(r, 2, 5); swap(r, 5, 8); return r }, []string{"moved 3", "moved 6", "moved 9"}},
		"swapped and one changed": {0, func(r records) records { swap(r, 2, 8); r[5].GetDecision().Reason = ""; return r }, []string{"moved 3", "changed 6", "moved 9"}},
		"swapped without hashes": {0, func(r records) records {
			swap(r, 2, 8)
			r[2].Hash, r[8].Hash = r[8].GetHash(), r[2].GetHash()
			return r
		}, []string{"changed 3", "changed 9"}},
		"one sent behind its turn": {0, func(r records) records { r[5], r[6] = r[6], r[5]; return r }, []string{"missing 6", "moved 6"}},
		"one sent twice":           {0, func(r records) records { return slices.Insert(r, 6, r[5]) }, []string{"moved 6"}},
		"swapped and all computed anew": {0, func(r records) records {
			swap(r, 0, 1)
			for i := range r {
				rehash(r, i)
			}
			return r
		}, []string{"missing 1", "moved 2"}},
		"before the chain, one changed":   {5, func(r records) records { r[1].GetDecision().PeerId = risk; return r }, []string{"changed 6"}},
		"before the chain, one deleted":   {5, func(r records) records { return slices.Delete(r, 2, 3) }, []string{"missing 3", "changed 6"}},
		"before the chain, all deleted":   {5, func(r records) records { return r[5:] }, []string{"missing 1"}},
		"before the chain, two swapped":   {5, func(r records) records { swap(r, 0, 1); return r }, []string{"missing 1", "moved 2", "changed 6"}},
		"the one that seals them changed": {5, func(r records) records { r[5].GetDecision().PeerId = risk; return r }, []string{"changed 6"}},
		"the one that seals them deleted": {5, func(r records) records { return slices.Delete(r, 5, 6) }, []string{"missing 6"}},
		"the next one counted among them": {5, func(r records) records { r[5].Hash = nil; return r }, []string{"changed 7"}},
		"and one after them":              {5, func(r records) records { r[1].GetDecision().PeerId = risk; r[9].GetDecision().PeerId = risk; return r }, []string{"changed 6", "changed 10"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := verify(test.tamper(trail(test.unchained)))
			if diff := cmp.Diff(test.want, found(got)); diff != "" || got.Found != len(test.want) {
				t.Errorf("%d findings differ (-want +got):\n%s\n%v", got.Found, diff, got.Findings)
			}
		})
	}
}

func TestAHeadThatWasKeptFindsWhatTheChainAloneCannot(t *testing.T) {
	t.Parallel()
	type records = []*auditv1.StoredRecord
	for name, test := range map[string]struct {
		unchained, kept int
		tamper          func(records) records
		want            []string
	}{
		"the end cut off":        {0, 12, func(r records) records { return r[:8] }, []string{"cut 9"}},
		"all of it cut off":      {0, 12, func(records) records { return nil }, []string{"cut 1"}},
		"cut off after the head": {0, 8, func(r records) records { return r[:8] }, []string{}},
		"all computed anew": {0, 8, func(r records) records {
			r[2].GetDecision().PeerId = risk
			for i := range r {
				rehash(r, i)
			}
			return r
		}, []string{"rewritten 8"}},
		"the last one changed with its hash": {0, 12, func(r records) records {
			r[11].GetDecision().PeerId = risk
			rehash(r, 11)
			return r
		}, []string{"rewritten 12"}},
		"a head from before the chain":            {5, 4, func(r records) records { return r }, []string{}},
		"all hashes taken away and one changed":   {0, 8, func(r records) records { unchain(r); r[2].GetDecision().PeerId = risk; return r }, []string{"rewritten 8"}},
		"all hashes taken away and none changed":  {0, 8, func(r records) records { unchain(r); return r }, []string{"rewritten 8"}},
		"the record whose head was kept, deleted": {0, 8, func(r records) records { return slices.Delete(r, 7, 8) }, []string{"missing 8"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kept := verify(trail(test.unchained)[:test.kept]).Head
			got := verify(test.tamper(trail(test.unchained)), kept)
			if diff := cmp.Diff(test.want, found(got)); diff != "" {
				t.Errorf("findings differ (-want +got):\n%s\n%v", diff, got.Findings)
			}
		})
	}
}

func unchain(records []*auditv1.StoredRecord) {
	for _, r := range records {
		r.Hash = nil
	}
}

func TestWhatTheDatabaseKnowsOfItsEnd(t *testing.T) {
	t.Parallel()
	for given, want := range map[int64][]string{12: {}, 15: {"cut 13"}, 10: {"changed 12"}, 0: {"changed 12"}} {
		v := chain.NewVerifier()
		for _, r := range trail(0) {
			v.Add(r)
		}
		v.Given(given)
		if diff := cmp.Diff(want, found(v.Report())); diff != "" {
			t.Errorf("records stored up to %d: findings differ (-want +got):\n%s", given, diff)
		}
	}
}

func TestAFindingNamesTheRecord(t *testing.T) {
	t.Parallel()
	records := trail(0)
	records[5].GetDecision().Reason = ""
	records[7].GetGap().LostCount = 1
	v := chain.NewVerifier()
	for i, r := range records {
		fault := ""
		if i == 9 {
			fault = "its column end_time is not what is stored of it"
		}
		v.AddFaulty(r, fault)
	}
	want := []string{
		"record 6 does not match its hash: it was changed, or record 5 before it was, together with its hash " +
			"(spiffe://bank.test/ledger, decision 00000000000000000000000000000005, 2026-11-05T09:30:05.123456Z)",
		"record 8 does not match its hash: it was changed, or record 7 before it was, together with its hash " +
			"(spiffe://bank.test/ledger, a gap of 1 decisions, 2026-11-05T09:30:08.123456Z)",
		"record 10 was changed: its column end_time is not what is stored of it " +
			"(spiffe://bank.test/ledger, decision 00000000000000000000000000000001, 2026-11-05T09:30:01.123456Z)",
	}
	var got []string
	for _, f := range v.Report().Findings {
		got = append(got, f.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings differ (-want +got):\n%s", diff)
	}
}

func TestASealThatIsBrokenAccusesAllThatItSeals(t *testing.T) {
	t.Parallel()
	records := trail(5)
	records[2].GetDecision().PeerId = "spiffe://bank.test/ledger"
	const want = "record 6 does not match its hash: it was changed, or one of the 5 records before it, which have no hash of their own and are sealed by this one"
	if got := verify(records); len(got.Findings) != 1 || got.Findings[0].Text != want {
		t.Errorf("findings %v, want one: %s", got.Findings, want)
	}
}

// Who turns every record around must not get the verifier to work or to remember without end.
func TestFindingsAreCountedAllAndKeptInPart(t *testing.T) {
	t.Parallel()
	v := chain.NewVerifier()
	var before chain.Hash
	const total = 5000
	for i := range int64(total) {
		r := decision(ledger, run1, i+1)
		r.Position, r.StoreTime = i+1, at(i)
		before = chain.Next(before, r)
		r.Hash = before[:]
		r = proto.CloneOf(r)
		r.GetDecision().Method = "/" + strings.Repeat("m", int(i%7))
		v.Add(r)
	}
	if got := v.Report(); got.Found != total || len(got.Findings) != 100 {
		t.Errorf("%d found and %d kept, want %d and 100", got.Found, len(got.Findings), total)
	}
}
