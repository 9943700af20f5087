package main

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/pkg/audit/trail"
	"github.com/countersign-mesh/countersign/pkg/database"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// trailFile makes a database file as the audit service does.
func trailFile(t *testing.T, records []*auditv1.StoredRecord) (path string) {
	t.Helper()
	migrations, err := trail.Migrations()
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "audit.db")
	change(t, path, migrations, func(db *sql.DB) error {
		for _, r := range records {
			if _, err := db.ExecContext(t.Context(), trail.Insert, trail.Values(r)...); err != nil {
				return err
			}
		}
		return nil
	})
	return path
}

func change(t *testing.T, path string, migrations fs.FS, f func(*sql.DB) error) {
	t.Helper()
	db, err := database.Open(t.Context(), "sqlite:"+path, migrations)
	if err != nil {
		t.Fatal(err)
	}
	if err := f(db); err != nil {
		t.Error(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// verified runs audit verify on a trail in each of its two forms, and expects the same of both.
func verified(t *testing.T, records []*auditv1.StoredRecord, args ...string) (string, error) {
	t.Helper()
	b, _ := newAudit(t, records)
	served, errServed := b.countersign(t, append([]string{"audit", "verify"}, args...)...)
	file, errFile := countersign(t, append([]string{"audit", "verify", "--db", trailFile(t, records)}, args...)...)
	if served != file || fmt.Sprint(errServed) != fmt.Sprint(errFile) {
		t.Errorf("served:\n%s%v\nfile:\n%s%v", served, errServed, file, errFile)
	}
	return file, errFile
}

func headOf(r *auditv1.StoredRecord) string {
	return fmt.Sprintf("%d:%x", r.GetPosition(), r.GetHash())
}

func TestAuditVerifySaysThatATrailIsSound(t *testing.T) {
	t.Parallel()
	records := trailOf(30)
	out, err := verified(t, records, "--expect="+headOf(records[17]))
	want := "The audit trail is as it was stored: 30 records.\n" +
		"1 gap in it: 12 decisions lost before they could be stored.\n" +
		"The head, to be kept elsewhere and checked with --expect: " + headOf(records[29]) + "\n"
	if err != nil || out != want {
		t.Errorf("it says %v:\n%s\nwant:\n%s", err, out, want)
	}
	out, err = verified(t, nil)
	if err != nil || !strings.Contains(out, "as it was stored: 0 records.") || !strings.Contains(out, "\nNo decision was lost before it could be stored.\n") || !strings.Contains(out, "--expect: 0:000") {
		t.Errorf("of an empty trail it says %v:\n%s", err, out)
	}
}

// ATTACKS 65.
func TestAuditVerifyNamesWhatWasDone(t *testing.T) {
	t.Parallel()
	sound := trailOf(30)
	for name, test := range map[string]struct {
		tamper func([]*auditv1.StoredRecord) []*auditv1.StoredRecord
		args   []string
		want   []string
		err    string
	}{
		"a denial made an allowance": {func(r []*auditv1.StoredRecord) []*auditv1.StoredRecord {
			r[1].GetDecision().Verdict = auditv1.Verdict_VERDICT_ALLOWED
			return r
		}, nil, []string{
			"changed    record 2 does not match its hash", "(spiffe://bank.test/ledger, decision 00000000000000000000000000000002, 2026-11-05T09:30:02.123456Z)",
		}, "1 finding in 30 records"},
		"more than can be shown": {func(r []*auditv1.StoredRecord) []*auditv1.StoredRecord {
			for _, one := range r[3:] {
				one.ServerId = "spiffe://bank.test/\x1b[2J"
			}
			return r
		}, nil, []string{"record 4 does not", "record 23 does not", "… and 7 more\n"}, "27 findings in 30 records"},
		"another trail than the one whose head was kept": {
			func(r []*auditv1.StoredRecord) []*auditv1.StoredRecord { return r },
			[]string{"--expect=3:" + strings.Repeat("ab", 32)},
			[]string{"rewritten  record 3 has the hash "},
			"1 finding in 30 records",
		},
		"cut off before the head that was kept": {
			func(r []*auditv1.StoredRecord) []*auditv1.StoredRecord { return r[:20] },
			[]string{"--expect=" + headOf(sound[29])},
			[]string{"cut        the end of the trail was cut off: record 30 was there when its head was kept, and the last one that is left is 20"},
			"1 finding in 20 records",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := verified(t, test.tamper(trailOf(30)), test.args...)
			if err == nil || !strings.Contains(err.Error(), test.err) || exitCode(err) != 1 {
				t.Errorf("the error is %v with code %d, want %q and 1", err, exitCode(err), test.err)
			}
			for _, want := range test.want {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in:\n%s", want, out)
				}
			}
			if strings.Contains(out, "\x1b") || strings.Contains(out, "record 24 does not") || strings.Contains(out, "The head") {
				t.Errorf("it says too much:\n%s", out)
			}
		})
	}
}

func TestAuditVerifySaysHowManyAreFromBeforeTheChain(t *testing.T) {
	t.Parallel()
	records := trailOf(5)
	for _, r := range records {
		r.Hash = nil
	}
	b, _ := newAudit(t, records)
	out, err := b.countersign(t, "audit", "verify")
	if err != nil || !strings.Contains(out, "The first 5 are from before there was a chain; nothing seals them yet") {
		t.Errorf("it says %v:\n%s", err, out)
	}
}

// The end of the file is known to SQLite too.
func TestAuditVerifyFindsACutWithoutAHead(t *testing.T) {
	t.Parallel()
	path := trailFile(t, trailOf(9))
	migrations, err := trail.Migrations()
	if err != nil {
		t.Fatal(err)
	}
	change(t, path, migrations, func(db *sql.DB) error {
		_, err := db.ExecContext(t.Context(), "DROP TRIGGER records_are_not_deleted; DELETE FROM records WHERE position > 7")
		return err
	})
	out, err := countersign(t, "audit", "verify", "--db", path)
	if err == nil || !strings.Contains(out, "records were stored up to 9, and the last one that is left is 7") {
		t.Errorf("it says %v:\n%s", err, out)
	}
}

func TestAuditVerifyReadsOnAfterABreak(t *testing.T) {
	t.Parallel()
	b, fake := newAudit(t, trailOf(30))
	fake.cut = []int{9, 12}
	if out, err := b.countersign(t, "audit", "verify"); err != nil || !strings.Contains(out, "as it was stored: 30 records.") {
		t.Errorf("it says %v:\n%s", err, out)
	}
}

// What is stored while it reads is not waited for; that the last record disappears meanwhile is seen.
func TestAuditVerifyEndsAtTheHead(t *testing.T) {
	t.Parallel()
	records := trailOf(30)
	b := newBank(t)
	b.addAudit(t, &headOnce{auditFake: &auditFake{records: slices.Concat(records[:19], records[20:])}, head: 20})
	out, err := b.countersign(t, "audit", "verify")
	if err == nil || !strings.Contains(out, "record 20 is missing") || !strings.Contains(err.Error(), "1 finding in 20 records") {
		t.Errorf("it says %v:\n%s", err, out)
	}
}

// headOnce lists a record that is not there any more when the trail is read.
type headOnce struct {
	*auditFake
	head int64
}

func (h *headOnce) ListDecisions(context.Context, *auditv1.ListDecisionsRequest) (*auditv1.ListDecisionsResponse, error) {
	return &auditv1.ListDecisionsResponse{Records: []*auditv1.StoredRecord{{Position: h.head}}}, nil
}

func TestAuditVerifySaysWhatIsWrongWithAFile(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "audit.db")
	if _, err := countersign(t, "audit", "verify", "--db", missing); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := countersign(t, "audit", "verify", "--db", filepath.Join("..", "..", "deploy", "policy", "bank.yaml")); err == nil || !strings.Contains(err.Error(), "not a SQLite database") {
		t.Errorf("no database: %v", err)
	}
}
