package trail_test

import (
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/pkg/audit/chain"
	"github.com/countersign-mesh/countersign/pkg/audit/trail"
	"github.com/countersign-mesh/countersign/pkg/database"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

const (
	ledger = "spiffe://bank.test/ledger"
	run1   = "11111111111111111111111111111111"
)

func at(n int64) *timestamppb.Timestamp {
	return timestamppb.New(time.Date(2026, 11, 5, 9, 30, 0, 123456000, time.UTC).Add(time.Duration(n) * time.Second))
}

// records returns ten of one run. The fourth is a gap, the fifth has nothing that a decision may lack, and the last everything.
func records() []*auditv1.StoredRecord {
	var all []*auditv1.StoredRecord
	var h chain.Hash
	for n := range int64(10) {
		d := &auditv1.Decision{
			DecisionId: fmt.Sprintf("%032x", n+1), DecideTime: at(n), ServerId: ledger, PeerId: "spiffe://bank.test/payments", PeerSerial: "1f",
			Method: "/bank.ledger.v1.LedgerService/PostTransfer", Verdict: auditv1.Verdict_VERDICT_ALLOWED, Rule: "bank.yaml:101",
			PolicyVersion: "0123456789abcdef", TraceId: fmt.Sprintf("%032x", 1000+n),
		}
		r := &auditv1.StoredRecord{
			Position: n + 1, ServerId: ledger, StoreTime: at(n + 1), RunId: run1, Sequence: n + 1, Event: &auditv1.StoredRecord_Decision{Decision: d},
		}
		switch n {
		case 3:
			r.Event = &auditv1.StoredRecord_Gap{Gap: &auditv1.Gap{LostCount: 9, StartTime: at(n), EndTime: at(n + 1)}}
		case 4:
			d.PeerId, d.PeerSerial, d.Rule, d.PolicyVersion, d.TraceId = "", "", "", "", ""
		case 9:
			d.Verdict, d.Reason, d.ShadowVerdict, d.ShadowRule = auditv1.Verdict_VERDICT_DENIED, "no rule", auditv1.Verdict_VERDICT_ALLOWED, "bank.yaml:104"
			d.Subject, d.TransactionId = "alice", "txn-1"
		}
		h = chain.Next(h, r)
		hash := h
		r.Hash = hash[:]
		all = append(all, r)
	}
	return all
}

// open makes a database with the records.
func open(t *testing.T, records ...*auditv1.StoredRecord) (db *sql.DB, path string) {
	t.Helper()
	migrations, err := trail.Migrations()
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "audit.db")
	if db, err = database.Open(t.Context(), "sqlite:"+path, migrations); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, r := range records {
		exec(t, db, trail.Insert, trail.Values(r)...)
	}
	return db, path
}

func exec(t *testing.T, db *sql.DB, query string, args ...any) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func TestARecordIsReadAsItWasStored(t *testing.T) {
	t.Parallel()
	want := records()
	db, _ := open(t, want...)
	rows, err := db.QueryContext(t.Context(), trail.Select+" ORDER BY position")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var got []*auditv1.StoredRecord
	for rows.Next() {
		r, fault, err := trail.Scan(rows)
		if err != nil || fault != "" {
			t.Fatalf("record %v: %s, %v", r, fault, err)
		}
		got = append(got, r)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("records differ (-want +got):\n%s", diff)
	}
}

// template makes a database file with the records, for copy.
func template(t *testing.T) []byte {
	t.Helper()
	db, path := open(t, records()...)
	exec(t, db, "PRAGMA wal_checkpoint(TRUNCATE)")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// tampered does to a copy of a database what somebody does who can write to the file, and returns where it is and how many rows the last
// statement changed.
func tampered(t *testing.T, template []byte, statements ...string) (path string, changed int64) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "audit.db")
	if err := os.WriteFile(path, template, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=synchronous(OFF)&_pragma=ignore_check_constraints(ON)")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, trigger := range []string{
		"records_are_not_changed", "records_are_not_deleted", "records_are_not_replaced", "records_come_last", "records_are_chained",
	} {
		exec(t, db, "DROP TRIGGER "+trigger)
	}
	for _, statement := range statements {
		result, err := db.ExecContext(t.Context(), statement)
		if err != nil && strings.Contains(err.Error(), "NOT NULL") {
			return path, 0 // the table refuses it without any trigger
		}
		if err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
		if changed, err = result.RowsAffected(); err != nil {
			t.Fatal(err)
		}
	}
	return path, changed
}

func check(t *testing.T, path string) chain.Report {
	t.Helper()
	db, err := database.OpenReadOnly(t.Context(), "sqlite:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	v := chain.NewVerifier()
	if err := trail.Check(t.Context(), db, v); err != nil {
		t.Fatal(err)
	}
	return v.Report()
}

func found(report chain.Report) []string {
	out := []string{}
	for _, f := range report.Findings {
		out = append(out, fmt.Sprintf("%s %d", f.Kind, f.Position))
	}
	return out
}

func TestASoundDatabaseIsFoundSound(t *testing.T) {
	t.Parallel()
	all := records()
	want := chain.Report{Records: 10, Gaps: 1, Lost: 9, Head: chain.Head{Position: 10, Hash: chain.Hash(all[9].GetHash())}}
	path, _ := tampered(t, template(t))
	if diff := cmp.Diff(want, check(t, path)); diff != "" {
		t.Errorf("the report differs (-want +got):\n%s", diff)
	}
	_, empty := open(t)
	if diff := cmp.Diff(chain.Report{}, check(t, empty)); diff != "" {
		t.Errorf("the report of an empty trail differs (-want +got):\n%s", diff)
	}
}

// ATTACKS 65: a record is edited, in any column, also in one that no reader is told of.
func TestAnEditOfAnyColumnIsFound(t *testing.T) {
	t.Parallel()
	file := template(t)
	values := map[string][]string{
		"INTEGER": {"%s + 100", "-1", "NULL"},
		"TEXT":    {"%s || 'x'", "'gap'", "'denied'", "'allowed'", "CAST(x'ff' AS TEXT)", "''", "NULL"},
		"BLOB":    {"zeroblob(32)", "x'00'", "NULL"},
	}
	for column, kind := range columns(t) {
		if column == "position" {
			continue // that is to move it; see below
		}
		for _, format := range values[kind] {
			value := strings.ReplaceAll(format, "%s", column)
			for _, position := range []int64{4, 5, 10} {
				t.Run(fmt.Sprintf("%s of %d becomes %s", column, position, value), func(t *testing.T) {
					t.Parallel()
					path, changed := tampered(t, file, fmt.Sprintf("UPDATE records SET %s = %s WHERE position = %d AND %[1]s IS NOT %[2]s", column, value, position))
					wantFound(t, check(t, path), position, changed > 0)
				})
			}
		}
	}
}

// columns returns the table's columns and their types.
func columns(t *testing.T) map[string]string {
	t.Helper()
	db, _ := open(t)
	rows, err := db.QueryContext(t.Context(), "SELECT name, type FROM pragma_table_info('records')")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	all := make(map[string]string)
	for rows.Next() {
		var name, kind string
		if err := rows.Scan(&name, &kind); err != nil {
			t.Fatal(err)
		}
		all[name] = kind
	}
	if err := rows.Err(); err != nil || len(all) != 23 {
		t.Fatalf("columns %v, %v", all, err)
	}
	return all
}

func wantFound(t *testing.T, report chain.Report, position int64, changed bool) {
	t.Helper()
	switch {
	case !changed && report.Found > 0:
		t.Errorf("nothing was changed and found is %v", report.Findings)
	case changed && (report.Found < 1 || report.Found > 2):
		t.Errorf("found is %v, want the one record", report.Findings)
	}
	for _, f := range report.Findings {
		if f.Position != position || f.Record.GetPosition() != position || f.Kind != chain.Changed && f.Kind != chain.Unchained {
			t.Errorf("found is %v, want record %d", f, position)
		}
	}
}

// ATTACKS 65: deleted, reordered and truncated, with the triggers out of the way.
func TestWhatWasDoneToADatabaseIsFound(t *testing.T) {
	t.Parallel()
	file := template(t)
	const swap = `UPDATE records SET position = -1 WHERE position = 3; UPDATE records SET position = 3 WHERE position = 8;
		UPDATE records SET position = 8 WHERE position = -1`
	for name, test := range map[string]struct {
		statement string
		want      []string
	}{
		"the first deleted":       {"DELETE FROM records WHERE position = 1", []string{"missing 1"}},
		"one in the middle":       {"DELETE FROM records WHERE position = 6", []string{"missing 6"}},
		"the last":                {"DELETE FROM records WHERE position = 10", []string{"cut 10"}},
		"all":                     {"DELETE FROM records", []string{"cut 1"}},
		"the last, and its trace": {"DELETE FROM records WHERE position = 10; DELETE FROM sqlite_sequence", []string{"changed 9"}},
		"the trace set back":      {"UPDATE sqlite_sequence SET seq = 5", []string{"changed 10"}},
		"the trace made a text":   {"UPDATE sqlite_sequence SET seq = 'x'", []string{"changed 10"}},
		"two swapped":             {swap, []string{"moved 3", "moved 8"}},
		"moved to the end":        {"UPDATE records SET position = 11 WHERE position = 6", []string{"missing 6", "changed 11", "changed 11"}},
		"moved before the first":  {"UPDATE records SET position = -3 WHERE position = 6", []string{"moved -3", "missing 6"}},
		"a user taken away":       {"UPDATE records SET subject = NULL, transaction_id = NULL WHERE position = 10", []string{"changed 10"}},
		"a user put in":           {"UPDATE records SET subject = 'mallory', transaction_id = 'txn-2' WHERE position = 9", []string{"changed 9"}},
		"one hash computed anew":  {"UPDATE records SET hash = (SELECT hash FROM records WHERE position = 5) WHERE position = 6", []string{"changed 6"}},
		"one made up in between": {`INSERT INTO records SELECT 11, store_time, server_id, run_id, 11, kind, start_time, end_time, lost_count, decision_id, peer_id, peer_serial,
			method, verdict, rule, reason, policy_version, trace_id, shadow_verdict, shadow_rule, hash, subject, transaction_id FROM records WHERE position = 10`, []string{"changed 11"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, _ := tampered(t, file, test.statement)
			got := check(t, path)
			if diff := cmp.Diff(test.want, found(got)); diff != "" {
				t.Errorf("findings differ (-want +got):\n%s\n%v", diff, got.Findings)
			}
		})
	}
}

func TestAFindingSaysInWhichColumnWhatIsNotARecord(t *testing.T) {
	t.Parallel()
	path, _ := tampered(t, template(t), "UPDATE records SET end_time = end_time + 1 WHERE position = 7")
	got := check(t, path)
	const want = "record 7 was changed: what its column end_time holds no record has (spiffe://bank.test/ledger, decision 00000000000000000000000000000007, "
	if len(got.Findings) != 1 || !strings.HasPrefix(got.Findings[0].String(), want) {
		t.Errorf("findings %v, want one: %s…", got.Findings, want)
	}
}

// A page with a text that is not UTF-8 could not be sent, nor any of the records that are with it.
func TestWhateverStandsInARowItCanBeSent(t *testing.T) {
	t.Parallel()
	path, _ := tampered(t, template(t), "UPDATE records SET method = CAST(x'2fff' AS TEXT), start_time = -9223372036854775808 WHERE position = 7")
	got := check(t, path)
	if len(got.Findings) == 0 || got.Findings[0].Position != 7 {
		t.Fatalf("findings %v, want record 7", got.Findings)
	}
	if _, err := proto.Marshal(got.Findings[0].Record); err != nil {
		t.Error(err)
	}
	if method := got.Findings[0].Record.GetDecision().GetMethod(); method != "/\uFFFD" {
		t.Errorf("method %q", method)
	}
}

// A trail that was put aside is verified years later, by a program that has more columns than the file.
func TestAFileFromBeforeUsersWereRecordedIsVerifiedAsItIs(t *testing.T) {
	t.Parallel()
	migrations, err := trail.Migrations()
	if err != nil {
		t.Fatal(err)
	}
	older := fstest.MapFS{}
	for _, name := range []string{"sqlite/00001_records.sql", "sqlite/00002_chain.sql"} {
		text, err := fs.ReadFile(migrations, name)
		if err != nil {
			t.Fatal(err)
		}
		older[name] = &fstest.MapFile{Data: text}
	}
	path := filepath.Join(t.TempDir(), "audit.db")
	db, err := database.Open(t.Context(), "sqlite:"+path, older)
	if err != nil {
		t.Fatal(err)
	}
	const columns = `position, store_time, server_id, run_id, sequence, kind, start_time, end_time, lost_count, decision_id, peer_id, peer_serial,
		method, verdict, rule, reason, policy_version, trace_id, shadow_verdict, shadow_rule, hash`
	want := records()[:9] // the tenth is for a user
	for _, r := range want {
		values := trail.Values(r)
		values = append(values[:20], values[22])
		exec(t, db, "INSERT INTO records ("+columns+") VALUES (?"+strings.Repeat(", ?", 20)+")", values...)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if got := check(t, path); got.Found > 0 || got.Records != 9 || got.Head.Hash != chain.Hash(want[8].GetHash()) {
		t.Errorf("%d records up to %v, findings %v", got.Records, got.Head, got.Findings)
	}
	// And as this version opens it, with the head that was kept of it.
	if db, err = database.Open(t.Context(), "sqlite:"+path, migrations); err != nil {
		t.Fatal(err)
	}
	exec(t, db, trail.Insert, trail.Values(records()[9])...)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if got := check(t, path); got.Found > 0 || got.Records != 10 {
		t.Errorf("once a record for a user was added: %d records, findings %v", got.Records, got.Findings)
	}
}

func TestADatabaseWithoutAChainIsNotPassedForASoundOne(t *testing.T) {
	t.Parallel()
	db, path := open(t)
	exec(t, db, "DROP TABLE records")
	readOnly, err := database.OpenReadOnly(t.Context(), "sqlite:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	if err := trail.Check(t.Context(), readOnly, chain.NewVerifier()); !errors.Is(err, trail.ErrNoChain) {
		t.Errorf("error %v, want %v", err, trail.ErrNoChain)
	}
}
