package chain

import (
	"crypto/sha256"
	"fmt"

	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// Verifier checks a trail, record by record, from the first to the last. It goes on after what it finds, so that one change does not
// hide another one. It is for one goroutine. The zero value is not usable; see NewVerifier.
type Verifier struct {
	report   Report
	expected []Head

	last int64 // position
	// A record may follow the hash that is stored with the one before it, or the hash that this one should have: where they differ, one of
	// the two was changed, and the record after it tells which.
	stored, computed Hash
	// unlinked means that the record before the next one is missing, and its hash with it; chained that there was a hash.
	unlinked, chained bool

	runs map[run]place
	// doubts counts the records that are missing or cannot be believed: they may be of any run.
	doubts   int64
	suspects []suspect
}

// run is one run of a server's process.
type run struct{ server, id string }

// place is how far a run has come.
type place struct{ sequence, doubts int64 }

// NewVerifier returns a Verifier for a trail that must go on from the heads expected.
func NewVerifier(expected ...Head) *Verifier {
	return &Verifier{expected: expected, runs: make(map[run]place)}
}

// Add takes the next record.
func (v *Verifier) Add(r *auditv1.StoredRecord) { v.AddFaulty(r, "") }

// AddFaulty is Add for a record that was read from where more is stored than is in it, and fault says what is wrong there, unless it is
// empty.
func (v *Verifier) AddFaulty(r *auditv1.StoredRecord, fault string) {
	v.report.Records++
	if gap := r.GetGap(); gap != nil {
		v.report.Gaps++
		v.report.Lost += gap.GetLostCount()
	}
	if fault != "" {
		v.report.add(Changed, r.GetPosition(), r, "record %d was changed: %s", r.GetPosition(), fault)
	}
	if !v.checkPosition(r) {
		return
	}
	believed := v.checkHash(r)
	v.checkExpected(r)
	if believed {
		v.checkSequence(r)
	} else {
		v.doubts++
	}
}

// checkPosition reports false for a record that stands behind its place: it cannot be checked where it is.
func (v *Verifier) checkPosition(r *auditv1.StoredRecord) bool {
	position := r.GetPosition()
	if position <= v.last {
		v.report.add(Moved, position, r, "record %d comes after record %d, where there is no place for it", position, v.last)
		return false
	}
	if first, last := v.last+1, position-1; first <= last {
		what := fmt.Sprintf("record %d is missing", first)
		if first < last {
			what = fmt.Sprintf("records %d to %d are missing", first, last)
		}
		if len(r.GetHash()) > 0 {
			v.unlinked = true
			what += fmt.Sprintf("; record %d, whose hash covers that of the one before it, cannot be checked", position)
		}
		v.report.add(Missing, first, nil, "%s", what)
		v.doubts++
	}
	v.last = position
	return true
}

// checkHash reports whether a record is what was stored, as far as can be said.
func (v *Verifier) checkHash(r *auditv1.StoredRecord) bool {
	position := r.GetPosition()
	if len(r.GetHash()) != sha256.Size {
		if len(r.GetHash()) == 0 && !v.chained {
			v.report.Unchained++
			v.computed = Seal(v.computed, r)
		} else {
			v.report.add(Unchained, position, r, "record %d has lost its hash, which every record has that comes after one with a hash", position)
			v.computed = Next(v.computed, r)
		}
		v.stored = v.computed
		return true // the next hash says whether it is what was stored
	}
	hash := Hash(r.GetHash())
	matches := v.unlinked || hash == Next(v.stored, r) || v.computed != v.stored && hash == Next(v.computed, r)
	if matches {
		v.computed = hash
	} else {
		v.mismatch(r, hash)
		v.computed = Next(v.computed, r)
	}
	v.stored, v.unlinked, v.chained = hash, false, true
	return matches
}

func (v *Verifier) mismatch(r *auditv1.StoredRecord, hash Hash) {
	position := r.GetPosition()
	if !v.chained && v.report.Unchained > 0 {
		v.report.add(Changed, position, r,
			"record %d does not match its hash: it was changed, or one of the %d records before it, which have no hash of their own and are sealed by this one",
			position, v.report.Unchained)
		return
	}
	if v.report.Found < maxFindings {
		v.suspects = append(v.suspects, suspect{finding: len(v.report.Findings), record: r, hash: hash, before: v.stored})
	}
	or := ""
	if position > 1 {
		or = fmt.Sprintf(", or record %d before it was, together with its hash", position-1)
	}
	v.report.add(Changed, position, r, "record %d does not match its hash: it was changed%s", position, or)
}

func (v *Verifier) checkExpected(r *auditv1.StoredRecord) {
	for _, e := range v.expected {
		if e.Position == r.GetPosition() && e.Hash != v.stored {
			v.report.add(Rewritten, e.Position, r, "record %d has the hash %x now, and had %x when its head was kept: it was changed, or something before it",
				e.Position, v.stored, e.Hash)
		}
	}
}

// checkSequence sees that the records of a run come in the order in which their server made them, and that none of them is missing: also
// where there is no chain, or one that was computed anew.
func (v *Verifier) checkSequence(r *auditv1.StoredRecord) {
	of := run{server: r.GetServerId(), id: r.GetRunId()}
	last, sequence := v.runs[of], r.GetSequence()
	if sequence <= last.sequence {
		v.report.add(Moved, r.GetPosition(), r, "record %d is number %d of its run and comes after number %d", r.GetPosition(), sequence, last.sequence)
		return
	}
	missing := sequence - last.sequence - 1
	if r.GetGap() != nil && r.GetGap().GetLostCount() == missing+1 {
		missing = 0 // what did not reach the trail has one gap for all of it
	}
	// What is missing was found already when it is from where there are doubts.
	if missing > 0 && v.doubts == last.doubts {
		v.report.add(Missing, r.GetPosition(), r, "record %d is number %d of its run and follows number %d: what was between them is missing",
			r.GetPosition(), sequence, last.sequence)
	}
	v.runs[of] = place{sequence: sequence, doubts: v.doubts}
}

// Given says up to which position records were ever stored, where that is kept apart from the records.
func (v *Verifier) Given(position int64) {
	switch {
	case position > v.last:
		v.report.add(Cut, v.last+1, nil, "the end of the trail was cut off: records were stored up to %d, and the last one that is left is %d", position, v.last)
	case position < v.last:
		v.report.add(Changed, v.last, nil, "record %d is the last one, but the database says that records were stored up to %d only: that was set back", v.last, position)
	}
}

// Report ends the check.
func (v *Verifier) Report() Report {
	for _, e := range v.expected {
		if e.Position > v.last {
			v.report.add(Cut, v.last+1, nil, "the end of the trail was cut off: record %d was there when its head was kept, and the last one that is left is %d", e.Position, v.last)
		}
	}
	v.settle()
	v.report.Head = Head{Position: v.last, Hash: v.stored}
	return v.report
}
