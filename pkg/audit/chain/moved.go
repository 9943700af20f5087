package chain

import (
	"fmt"

	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// suspect is a record that does not match its hash where it stands. There are as many as findings at most, for whom settle takes half a
// second at worst.
type suspect struct {
	finding int // its place in the report
	record  *auditv1.StoredRecord
	hash    Hash
	before  Hash // the one that is stored with the record before it
	settled bool
	// innocent means that nothing is wrong with it but its neighbour.
	innocent bool
}

// settle tells those suspects that were moved from those that were changed: a record that was moved together with its hash still matches
// it at the position where it was stored. And the record after that position matches again once it is known what stood there.
func (v *Verifier) settle() {
	truth := make(map[int64]Hash) // what the hash of a position was
	for again := true; again; {
		again = false
		for i := range v.suspects {
			s := &v.suspects[i]
			if was, ok := v.home(s, truth); ok && !s.settled {
				s.settled, again = true, true
				truth[was] = s.hash
				v.acquit(s, was)
			}
		}
	}
	innocent := make(map[int]bool)
	for _, s := range v.suspects {
		innocent[s.finding] = s.innocent
	}
	var kept []Finding
	for i, f := range v.report.Findings {
		if !innocent[i] {
			kept = append(kept, f)
		}
	}
	v.report.Found -= len(v.report.Findings) - len(kept)
	v.report.Findings, v.suspects = kept, nil
}

// home returns the position at which s matches its hash, among those where something is wrong.
func (v *Verifier) home(s *suspect, truth map[int64]Hash) (int64, bool) {
	for i := range v.suspects {
		at := v.suspects[i].record.GetPosition()
		before, ok := truth[at-1]
		if !ok {
			before = v.suspects[i].before
		}
		if link(versionChained, before, at, s.record) == s.hash {
			return at, true
		}
	}
	return 0, false
}

func (v *Verifier) acquit(s *suspect, was int64) {
	if position := s.record.GetPosition(); was != position {
		f := &v.report.Findings[s.finding]
		f.Kind, f.Text = Moved, fmt.Sprintf("record %d was moved: it was stored as record %d", position, was)
		return
	}
	s.innocent = true
}
