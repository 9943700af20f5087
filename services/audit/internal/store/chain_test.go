package store_test

import (
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/countersign-mesh/countersign/pkg/audit/chain"
	"github.com/countersign-mesh/countersign/pkg/audit/trail"
	"github.com/countersign-mesh/countersign/pkg/database"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
	"github.com/countersign-mesh/countersign/services/audit/internal/store"
)

// verify checks the trail in a database.
func verify(t *testing.T, db *sql.DB) chain.Report {
	t.Helper()
	v := chain.NewVerifier()
	if err := trail.Check(t.Context(), db, v); err != nil {
		t.Fatal(err)
	}
	return v.Report()
}

// wantSound expects as many records, the first unchained of them from before the chain.
func wantSound(t *testing.T, db *sql.DB, records, unchained int64) {
	t.Helper()
	got := verify(t, db)
	if got.Found > 0 || got.Records != records || got.Unchained != unchained {
		t.Errorf("%d records, %d before the chain, findings %v; want %d, %d and none", got.Records, got.Unchained, got.Findings, records, unchained)
	}
}

func exec(t *testing.T, db *sql.DB, statements ...string) {
	t.Helper()
	for _, statement := range statements {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

func TestTheRecordsOfEveryServerAreOneChain(t *testing.T) {
	t.Parallel()
	s, db := open(t)
	wantSound(t, db, 0, 0)
	appendTo(t, s, ledger, run1, 3, decision(1), decision(2, denied), gap(3, 4))
	appendTo(t, s, risk, run1, 9, decision(9, func(d *auditv1.Decision) {
		d.ShadowVerdict, d.ShadowRule = auditv1.Verdict_VERDICT_DENIED, "bank.yaml:104"
		d.Subject, d.TransactionId = "alice", "txn-1"
	}))
	appendTo(t, s, ledger, run1, 5, decisions(1, 5)...)
	appendTo(t, s, ledger, run2, 1, decision(1))
	wantSound(t, db, 8, 0)
	// What is served is what is checked.
	v := chain.NewVerifier()
	for _, r := range all(t, s) {
		v.Add(r)
	}
	if diff := cmp.Diff(verify(t, db), v.Report()); diff != "" {
		t.Errorf("what is served is not what is stored (-stored +served):\n%s", diff)
	}
}

func TestTheChainGoesOnAfterARestartAndAFailure(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.db")
	s, db := openAt(t, path)
	appendTo(t, s, ledger, run1, 2, decisions(1, 2)...)
	if _, err := s.Append(t.Context(), ledger, run1, []*auditv1.Record{decision(3), decision(4, func(d *auditv1.Decision) { d.DecisionId = "abc" })}); err == nil {
		t.Error("the table took a decision ID of three digits")
	}
	appendTo(t, s, ledger, run1, 3, decision(3))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, db = openAt(t, path)
	appendTo(t, s, ledger, run1, 5, decisions(4, 5)...)
	wantSound(t, db, 5, 0)
}

// old makes a database as it was before there was a chain, with records 1 to n of run1 and the third one a gap.
func old(t *testing.T, path string, n int) *sql.DB {
	t.Helper()
	migrations, err := trail.Migrations()
	if err != nil {
		t.Fatal(err)
	}
	const name = "sqlite/00001_records.sql"
	first, err := fs.ReadFile(migrations, name)
	if err != nil {
		t.Fatal(err)
	}
	db, err := database.Open(t.Context(), "sqlite:"+path, fstest.MapFS{name: {Data: first}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() }) // a test closes it before
	for i := 1; i <= n; i++ {
		const columns = "store_time, server_id, run_id, sequence, kind, start_time, end_time"
		common := fmt.Sprintf("%d, '%s', '%s', %d", 1000+i, ledger, run1, i)
		if i == 3 {
			exec(t, db, fmt.Sprintf("INSERT INTO records (%s, lost_count) VALUES (%s, 'gap', 10, 20, 5)", columns, common))
			continue
		}
		exec(t, db, fmt.Sprintf(`INSERT INTO records (%s, decision_id, peer_id, peer_serial, method, verdict, rule, reason, policy_version)
			VALUES (%s, 'decision', %d, %d, '%032x', '%s', '1f', '/m', 'denied', '', 'why', 'v')`, columns, common, i, i, i, risk))
	}
	return db
}

// rows returns all that is in columns that there were before the chain.
func rows(t *testing.T, db *sql.DB) []string {
	t.Helper()
	result, err := db.QueryContext(t.Context(), `SELECT json_array(position, store_time, server_id, run_id, sequence, kind, start_time, end_time, lost_count,
		decision_id, peer_id, peer_serial, method, verdict, rule, reason, policy_version, trace_id) FROM records ORDER BY position`)
	if err != nil {
		t.Fatal(err)
	}
	defer result.Close()
	var all []string
	for result.Next() {
		var row string
		if err := result.Scan(&row); err != nil {
			t.Fatal(err)
		}
		all = append(all, row)
	}
	if err := result.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// upgraded makes an old database and opens it as this version does.
func upgraded(t *testing.T, n int) (s *store.Store, db *sql.DB, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "audit.db")
	before := old(t, path, n)
	want := rows(t, before)
	if err := before.Close(); err != nil {
		t.Fatal(err)
	}
	s, db = openAt(t, path)
	if diff := cmp.Diff(want, rows(t, db)); diff != "" {
		t.Fatalf("the migration changed records (-before +after):\n%s", diff)
	}
	return s, db, path
}

func TestATrailFromBeforeTheChainIsKeptAndSealed(t *testing.T) {
	t.Parallel()
	s, db, path := upgraded(t, 5)
	wantSound(t, db, 5, 5)
	for _, r := range all(t, s) {
		if len(r.GetHash()) > 0 {
			t.Errorf("record %d was given a hash: %v", r.GetPosition(), r)
		}
		if d := r.GetDecision(); d.GetSubject() != "" || d.GetTransactionId() != "" {
			t.Errorf("record %d is for a user that it never had: %v", r.GetPosition(), r)
		}
	}
	kept := verify(t, db).Head
	// The service may be started and stopped before there is anything to append.
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, db = openAt(t, path)
	appendTo(t, s, ledger, run1, 7, decisions(6, 7)...)
	wantSound(t, db, 7, 5)
	appendTo(t, s, ledger, run1, 8, decision(8))
	wantSound(t, db, 8, 5)
	appendTo(t, s, ledger, run1, 9, decision(9, func(d *auditv1.Decision) { d.Subject, d.TransactionId = "alice", "txn-1" }))
	wantSound(t, db, 9, 5)
	v := chain.NewVerifier(kept)
	if err := trail.Check(t.Context(), db, v); err != nil || v.Report().Found > 0 {
		t.Errorf("the head from before the chain is not in it: %v, %v", v.Report().Findings, err)
	}
}

// ATTACKS 65, for records that have no hash of their own.
func TestWhatIsDoneToRecordsFromBeforeTheChainIsFound(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		statement string
		want      string
	}{
		"a verdict turned":               {"UPDATE records SET verdict = 'allowed' WHERE position = 2", "record 6 does not match its hash: it was changed, or one of the 5 records before it"},
		"a count made smaller":           {"UPDATE records SET lost_count = 1 WHERE position = 3", "record 6 does not match its hash"},
		"a time moved that nobody reads": {"UPDATE records SET end_time = 9 WHERE position = 2", "record 2 was changed: what its column end_time holds"},
		"a shadow verdict added":         {"UPDATE records SET shadow_verdict = 'allowed' WHERE position = 2", "record 6 does not match its hash"},
		"a user added":                   {"UPDATE records SET subject = 'mallory', transaction_id = 'txn-1' WHERE position = 2", "record 6 does not match its hash"},
		"a hash added":                   {"UPDATE records SET hash = zeroblob(32) WHERE position = 2", "record 2 does not match its hash"},
		"the first deleted":              {"DELETE FROM records WHERE position = 1", "record 1 is missing"},
		"the last of them deleted":       {"DELETE FROM records WHERE position = 5", "record 5 is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, db, _ := upgraded(t, 5)
			appendTo(t, s, ledger, run1, 8, decisions(6, 8)...)
			exec(t, db, "DROP TRIGGER records_are_not_changed", "DROP TRIGGER records_are_not_deleted", test.statement)
			got := verify(t, db)
			if got.Found == 0 || !strings.HasPrefix(got.Findings[0].Text, test.want) {
				t.Errorf("findings %v, want one that begins with %q", got.Findings, test.want)
			}
		})
	}
}

// A record that is appended to what was tampered with would be evidence for it.
func TestNothingIsAppendedToATrailWithoutItsEnd(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ statement, want string }{
		"the last deleted":         {"DELETE FROM records WHERE position = 3", "records were stored up to 3, and the last one that is left is 2"},
		"all deleted":              {"DELETE FROM records", "records were stored up to 3, and the last one that is left is 0"},
		"the last hash taken away": {"UPDATE records SET hash = NULL WHERE position = 3", "record 3 has lost its hash"},
		"the last hash made short": {"PRAGMA ignore_check_constraints = ON; UPDATE records SET hash = x'00' WHERE position = 3", "record 3 has lost its hash"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "audit.db")
			s, db := openAt(t, path)
			appendTo(t, s, ledger, run1, 3, decisions(1, 3)...)
			exec(t, db, "DROP TRIGGER records_are_not_changed", "DROP TRIGGER records_are_not_deleted", test.statement)
			if _, err := s.Append(t.Context(), ledger, run1, decisions(4, 5)); !errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want ErrDamaged with %q", err, test.want)
			}
			if _, err := store.New(t.Context(), db); !errors.Is(err, store.ErrDamaged) {
				t.Errorf("a store on what is left: %v, want ErrDamaged", err)
			}
		})
	}
}

// What the message of a record cannot show is shown by its hash: there is none.
func TestARowThatIsNoRecordIsServedWithoutItsHash(t *testing.T) {
	t.Parallel()
	s, db := open(t)
	appendTo(t, s, ledger, run1, 3, decisions(1, 3)...)
	want := all(t, s)
	exec(t, db, "DROP TRIGGER records_are_not_changed", "UPDATE records SET end_time = end_time + 1 WHERE position = 2")
	want[1].Hash = nil
	if diff := cmp.Diff(want, all(t, s), protocmp.Transform()); diff != "" {
		t.Errorf("records differ (-want +got):\n%s", diff)
	}
}
