package chain

import (
	"fmt"
	"strings"
	"time"

	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// Kind is what is wrong with a trail.
type Kind string

// The kinds of findings.
const (
	// Changed is a record that is not what was hashed.
	Changed Kind = "changed"
	// Moved is a record as it was stored, at another's position, or out of the order of its run.
	Moved Kind = "moved"
	// Missing are records between two others.
	Missing Kind = "missing"
	// Unchained is a record without its hash.
	Unchained Kind = "unchained"
	// Cut is a trail without its end.
	Cut Kind = "cut"
	// Rewritten is a trail that is sound in itself, and not the one whose Head was kept.
	Rewritten Kind = "rewritten"
)

// Finding is one thing that is wrong with a trail.
type Finding struct {
	Kind Kind
	// Position is the record's, or that of the first one that is missing.
	Position int64
	// Record is the record as it is now; nil when it is missing.
	Record *auditv1.StoredRecord
	// Text says what is wrong, in a sentence that begins with the record.
	Text string
}

// String returns the sentence, with who stored the record, which decision it is and when that was made. What stands in a record that
// was changed may be anything, characters that steer a terminal too.
func (f Finding) String() string {
	if f.Record == nil {
		return f.Text
	}
	about := []string{f.Record.GetServerId()}
	at := f.Record.GetStoreTime()
	if d := f.Record.GetDecision(); d != nil {
		about = append(about, "decision "+d.GetDecisionId())
		at = d.GetDecideTime()
	} else if gap := f.Record.GetGap(); gap != nil {
		about = append(about, fmt.Sprintf("a gap of %d decisions", gap.GetLostCount()))
		at = gap.GetStartTime()
	}
	about = append(about, at.AsTime().Format(time.RFC3339Nano))
	return fmt.Sprintf("%s (%s)", f.Text, strings.Join(about, ", "))
}

// Report is what a Verifier found out about a trail.
type Report struct {
	// Records is how many there are; Unchained of them are from before there was a chain.
	Records, Unchained int64
	// Gaps is how many of the records stand for decisions that were lost, and Lost how many decisions those are.
	Gaps, Lost int64
	// Head is the last record's.
	Head Head
	// Findings are the first hundred; Found is how many there are.
	Findings []Finding
	Found    int
}

// maxFindings bounds what is kept of a trail that is wrong everywhere.
const maxFindings = 100

func (r *Report) add(kind Kind, position int64, record *auditv1.StoredRecord, format string, args ...any) {
	r.Found++
	if len(r.Findings) < maxFindings {
		r.Findings = append(r.Findings, Finding{Kind: kind, Position: position, Record: record, Text: fmt.Sprintf(format, args...)})
	}
}
