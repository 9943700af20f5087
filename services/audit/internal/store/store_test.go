package store_test

import (
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/pkg/audit/trail"
	"github.com/countersign-mesh/countersign/pkg/database"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
	"github.com/countersign-mesh/countersign/services/audit/internal/store"
)

const (
	ledger = "spiffe://bank.test/ledger"
	risk   = "spiffe://bank.test/risk"
	run1   = "11111111111111111111111111111111"
	run2   = "22222222222222222222222222222222"
)

// at is when the decision with a sequence was made.
func at(sequence int64) *timestamppb.Timestamp {
	return timestamppb.New(time.Date(2026, 11, 5, 9, 30, 0, 123456000, time.UTC).Add(time.Duration(sequence) * time.Second))
}

func open(t testing.TB) (*store.Store, *sql.DB) {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "audit.db"))
}

func openAt(t testing.TB, path string) (*store.Store, *sql.DB) {
	t.Helper()
	migrations, err := trail.Migrations()
	if err != nil {
		t.Fatal(err)
	}
	db, err := database.Open(t.Context(), "sqlite:"+path, migrations)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() }) // a test may have closed it before
	s, err := store.New(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	return s, db
}

// decision returns a record with everything that a decision can have.
func decision(sequence int64, changes ...func(*auditv1.Decision)) *auditv1.Record {
	d := &auditv1.Decision{
		DecisionId:    fmt.Sprintf("%032x", sequence),
		DecideTime:    at(sequence),
		PeerId:        "spiffe://bank.test/payments",
		PeerSerial:    "1f",
		Method:        "/bank.ledger.v1.LedgerService/PostTransfer",
		Verdict:       auditv1.Verdict_VERDICT_ALLOWED,
		Rule:          "bank.yaml:101",
		PolicyVersion: "0123456789abcdef",
		TraceId:       fmt.Sprintf("%032x", 1000+sequence),
	}
	for _, change := range changes {
		change(d)
	}
	return &auditv1.Record{Sequence: sequence, Event: &auditv1.Record_Decision{Decision: d}}
}

func denied(d *auditv1.Decision) {
	d.Verdict, d.Rule, d.Reason, d.PeerId = auditv1.Verdict_VERDICT_DENIED, "", "no rule names this peer", risk
}

func gap(sequence, lost int64) *auditv1.Record {
	return &auditv1.Record{Sequence: sequence, Event: &auditv1.Record_Gap{
		Gap: &auditv1.Gap{LostCount: lost, StartTime: at(sequence), EndTime: at(sequence + 1)},
	}}
}

func decisions(first, last int64) []*auditv1.Record {
	var records []*auditv1.Record
	for i := first; i <= last; i++ {
		records = append(records, decision(i))
	}
	return records
}

func appendTo(t *testing.T, s *store.Store, server, run string, want int64, records ...*auditv1.Record) {
	t.Helper()
	stored, err := s.Append(t.Context(), server, run, records)
	if err != nil || stored != want {
		t.Fatalf("Append = %d, %v; want %d", stored, err, want)
	}
}

// texts describes records by decision number or count of what was lost.
func texts(records []*auditv1.StoredRecord) []string {
	out := []string{}
	for _, r := range records {
		if r.GetGap() != nil {
			out = append(out, fmt.Sprintf("lost %d", r.GetGap().GetLostCount()))
			continue
		}
		out = append(out, strings.TrimLeft(r.GetDecision().GetDecisionId(), "0"))
	}
	return out
}

func all(t *testing.T, s *store.Store) []*auditv1.StoredRecord {
	t.Helper()
	records, more, err := s.After(t.Context(), nil, 0, 10000)
	if err != nil || more {
		t.Fatalf("After: more %v, %v", more, err)
	}
	for i, r := range records {
		if r.GetPosition() != int64(i+1) {
			t.Fatalf("record %d has position %d", i+1, r.GetPosition())
		}
	}
	return records
}

func wantStored(t *testing.T, s *store.Store, want ...string) {
	t.Helper()
	if diff := cmp.Diff(append([]string{}, want...), texts(all(t, s))); diff != "" {
		t.Errorf("stored records differ (-want +got):\n%s", diff)
	}
}

func TestARecordComesBackAsItWasSent(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	before := time.Now().Truncate(time.Microsecond)
	allowed := decision(1, func(d *auditv1.Decision) {
		d.ShadowVerdict, d.ShadowRule = auditv1.Verdict_VERDICT_DENIED, "bank.yaml:104"
		d.Subject, d.TransactionId = "alice", "txn-1"
	})
	refused := decision(2, denied, func(d *auditv1.Decision) { d.TraceId = "" })
	appendTo(t, s, ledger, run1, 3, allowed, refused, gap(3, 7))
	for _, r := range []*auditv1.Record{allowed, refused} {
		r.GetDecision().ServerId = ledger
	}
	want := []*auditv1.StoredRecord{
		{Position: 1, ServerId: ledger, RunId: run1, Sequence: 1, Event: &auditv1.StoredRecord_Decision{Decision: allowed.GetDecision()}},
		{Position: 2, ServerId: ledger, RunId: run1, Sequence: 2, Event: &auditv1.StoredRecord_Decision{Decision: refused.GetDecision()}},
		{Position: 3, ServerId: ledger, RunId: run1, Sequence: 3, Event: &auditv1.StoredRecord_Gap{Gap: gap(3, 7).GetGap()}},
	}
	got := all(t, s)
	if diff := cmp.Diff(want, got, protocmp.Transform(), protocmp.IgnoreFields(&auditv1.StoredRecord{}, "store_time", "hash")); diff != "" {
		t.Errorf("stored records differ (-want +got):\n%s", diff)
	}
	if stored := got[0].GetStoreTime().AsTime(); stored.Before(before) || stored.After(time.Now()) {
		t.Errorf("stored at %v, want a time since %v", stored, before)
	}
}

func TestARecordIsStoredInTheNameOfItsSender(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	appendTo(t, s, risk, run1, 1, decision(1, func(d *auditv1.Decision) { d.ServerId = ledger }))
	r := all(t, s)[0]
	if r.GetServerId() != risk || r.GetDecision().GetServerId() != risk {
		t.Errorf("stored in the name of %s and %s, want %s", r.GetServerId(), r.GetDecision().GetServerId(), risk)
	}
}

func TestARecordThatIsSentAgainIsStoredOnce(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	appendTo(t, s, ledger, run1, 5, decisions(1, 5)...)
	appendTo(t, s, ledger, run1, 5, decisions(2, 4)...)
	appendTo(t, s, ledger, run1, 7, decisions(3, 7)...)
	wantStored(t, s, "1", "2", "3", "4", "5", "6", "7")
	// The first one counts: a server cannot take back what it has said.
	appendTo(t, s, ledger, run1, 7, decision(3, denied))
	if got := all(t, s)[2].GetDecision().GetVerdict(); got != auditv1.Verdict_VERDICT_ALLOWED {
		t.Errorf("a record that was sent again changed the verdict to %v", got)
	}
}

func TestRunsAndServersAreCountedEachByItself(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	appendTo(t, s, ledger, run1, 2, decisions(1, 2)...)
	appendTo(t, s, ledger, run2, 1, decision(1))
	appendTo(t, s, risk, run1, 2, decisions(1, 2)...)
	appendTo(t, s, ledger, run1, 3, decision(3))
	wantStored(t, s, "1", "2", "1", "1", "2", "3")
}

func TestWhatDidNotComeIsAGap(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	appendTo(t, s, ledger, run1, 4, decision(4))
	appendTo(t, s, ledger, run1, 5, decision(5))
	appendTo(t, s, ledger, run1, 9, decisions(8, 9)...)
	wantStored(t, s, "lost 3", "4", "5", "lost 2", "8", "9")
	appendTo(t, s, ledger, run1, 9, decisions(1, 9)...)
	wantStored(t, s, "lost 3", "4", "5", "lost 2", "8", "9")
}

func TestRecordsThatMakeNoSenseAreRefusedWhole(t *testing.T) {
	t.Parallel()
	noTime := decision(2, func(d *auditv1.Decision) { d.DecideTime = nil })
	farAway := decision(2, func(d *auditv1.Decision) { d.DecideTime = &timestamppb.Timestamp{Seconds: 1 << 60} })
	noVerdict := decision(2, func(d *auditv1.Decision) { d.Verdict = 0 })
	for name, test := range map[string]struct {
		records []*auditv1.Record
		want    string
	}{
		"none":                {nil, "there are none"},
		"a hole":              {[]*auditv1.Record{decision(1), decision(3)}, "records[1] has sequence 3; 2 would come next"},
		"backwards":           {[]*auditv1.Record{decision(2), decision(1)}, "records[1] has sequence 1; 3 would come next"},
		"twice the same":      {[]*auditv1.Record{decision(1), decision(1)}, "records[1] has sequence 1; 2 would come next"},
		"sequence zero":       {[]*auditv1.Record{decision(0)}, "records[0] has sequence 0"},
		"a decision untimed":  {[]*auditv1.Record{decision(1), noTime}, "records[1]: time"},
		"a time that is none": {[]*auditv1.Record{decision(1), farAway}, "records[1]: time"},
		"an unknown verdict":  {[]*auditv1.Record{decision(1), noVerdict}, "records[1]: VERDICT_UNSPECIFIED is no verdict"},
		"neither event":       {[]*auditv1.Record{decision(1), {Sequence: 2}}, "records[1]: a gap of 0 decisions is none"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := open(t)
			_, err := s.Append(t.Context(), ledger, run1, test.records)
			if !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want ErrInvalid with %q", err, test.want)
			}
			wantStored(t, s)
		})
	}
}

// What fails in the middle of a request leaves nothing of it, and the positions without a hole.
func TestAFailedTransactionLeavesNoTrace(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	appendTo(t, s, ledger, run1, 1, decision(1))
	short := decision(3, func(d *auditv1.Decision) { d.DecisionId = "abc" })
	if _, err := s.Append(t.Context(), ledger, run1, []*auditv1.Record{decision(2), short}); err == nil {
		t.Error("the table took a decision ID of three digits")
	}
	appendTo(t, s, ledger, run1, 2, decision(2))
	wantStored(t, s, "1", "2")
}

// ATTACKS 65: the table itself refuses to be edited, short of taking its triggers away.
func TestTheTrailIsAppendOnly(t *testing.T) {
	t.Parallel()
	const columns = `(position, store_time, server_id, run_id, sequence, kind, start_time, end_time, lost_count, hash)`
	for name, statement := range map[string]string{
		"edit":                "UPDATE records SET verdict = 'allowed' WHERE position = 2",
		"edit nothing":        "UPDATE records SET rule = rule",
		"renumber":            "UPDATE records SET position = 9 WHERE position = 3",
		"delete":              "DELETE FROM records WHERE position = 2",
		"truncate":            "DELETE FROM records WHERE position > 1",
		"empty":               "DELETE FROM records",
		"replace by position": "REPLACE INTO records " + columns + " VALUES (2, 0, 'x', '" + run1 + "', 1, 'gap', 0, 0, 1, zeroblob(32))",
		"replace by sequence": "REPLACE INTO records " + columns + " VALUES (4, 0, '" + ledger + "', '" + run1 + "', 2, 'gap', 0, 0, 1, zeroblob(32))",
		"upsert": "INSERT INTO records " + columns + " VALUES (2, 0, 'x', '" + run1 +
			"', 1, 'gap', 0, 0, 1, zeroblob(32)) ON CONFLICT DO UPDATE SET kind = 'gap'",
		"insert before":         "INSERT INTO records " + columns + " VALUES (0, 0, 'x', '" + run1 + "', 1, 'gap', 0, 0, 1, zeroblob(32))",
		"insert without a hash": "INSERT INTO records " + strings.Replace(columns, ", hash", "", 1) + " VALUES (4, 0, 'x', '" + run1 + "', 1, 'gap', 0, 0, 1)",
		"insert far away":       "INSERT INTO records " + columns + " VALUES (9, 0, 'x', '" + run1 + "', 1, 'gap', 0, 0, 1, zeroblob(32))",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, db := open(t)
			appendTo(t, s, ledger, run1, 3, decision(1), decision(2, denied), decision(3))
			before := all(t, s)
			if _, err := db.ExecContext(t.Context(), statement); err == nil || !strings.Contains(err.Error(), "audit records are") {
				t.Errorf("%s: %v, want a refusal", statement, err)
			}
			if diff := cmp.Diff(before, all(t, s), protocmp.Transform()); diff != "" {
				t.Errorf("the trail was changed:\n%s", diff)
			}
		})
	}
}

func TestConcurrentServersMakeOneOrder(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	const servers, batches, size = 6, 20, 10
	var group sync.WaitGroup
	for i := range servers {
		group.Go(func() {
			server := fmt.Sprintf("spiffe://bank.test/%d", i)
			for b := range int64(batches) {
				if _, err := s.Append(t.Context(), server, run1, decisions(b*size+1, (b+1)*size)); err != nil {
					t.Error(err)
				}
				// What is acknowledged is there.
				head, _ := s.Head()
				if page, _, err := s.After(t.Context(), nil, head-1, 1); err != nil || len(page) != 1 || page[0].GetPosition() != head {
					t.Errorf("the head %d is not there: %v", head, err)
				}
			}
		})
	}
	group.Wait()
	next := map[string]int64{}
	for _, r := range all(t, s) {
		next[r.GetServerId()]++
		if got, want := r.GetDecision().GetDecisionId(), fmt.Sprintf("%032x", next[r.GetServerId()]); got != want {
			t.Fatalf("%s: decision %s where %s was sent", r.GetServerId(), got, want)
		}
	}
	if head, _ := s.Head(); head != servers*batches*size {
		t.Errorf("head %d, want %d", head, servers*batches*size)
	}
}

func TestTheTrailOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.db")
	s, db := openAt(t, path)
	appendTo(t, s, ledger, run1, 2, decisions(1, 2)...)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, _ = openAt(t, path)
	if head, _ := s.Head(); head != 2 {
		t.Errorf("head %d after a restart, want 2", head)
	}
	appendTo(t, s, ledger, run1, 3, decisions(1, 3)...)
	wantStored(t, s, "1", "2", "3")
}

func TestHeadTellsOfTheNextRecord(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	_, changed := s.Head()
	select {
	case <-changed:
		t.Fatal("told of a record that is not there")
	default:
	}
	appendTo(t, s, ledger, run1, 1, decision(1))
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		t.Fatal("not told of the record")
	}
}
