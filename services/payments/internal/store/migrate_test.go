package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// before makes a database as the service kept it before there were holds: a payment in each state, and one that the ledger may or may not
// have posted.
func before(t *testing.T) string {
	t.Helper()
	first, err := os.ReadFile(filepath.Join("migrations", "sqlite", "00001_payments.sql"))
	if err != nil {
		t.Fatal(err)
	}
	dsn := databasetest.SQLite(t)
	db, err := database.Open(t.Context(), dsn, fstest.MapFS{"sqlite/00001_payments.sql": {Data: first}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	err = database.InTx(t.Context(), db, func(tx *sql.Tx) error {
		var errs []error
		run := func(query string, args ...any) {
			_, err := tx.ExecContext(t.Context(), query, args...)
			errs = append(errs, err)
		}
		for n, states := range [][]string{
			{"created"}, {"created", "assessed"}, {"created", "assessed", "posted"}, {"created", "refused"}, {"created", "held"},
		} {
			o, state := order(fmt.Sprintf("request-%d", n), "acc-a", "acc-b"), states[len(states)-1]
			run(`INSERT INTO payments (payment_id, caller, request_id, request_digest, kind, payer_account_id, payer_customer_id,
				payee_account_id, currency_code, minor_units, reference, state, reasons, create_time, update_time)
				VALUES ($1, $2, $3, $4, 'transfer', 'acc-a', 'alice', 'acc-b', 'EUR', 1234, $5, $6, '[]', $7, $7)`,
				"pay-"+state, o.Caller, o.RequestID, o.Digest(), o.Reference, state, noon.UnixMicro())
			for _, state := range states {
				for _, account := range []string{"acc-a", "acc-b"} {
					run(`INSERT INTO changes (account_id, payment_id, state, reasons, change_time) VALUES ($1, $2, $3, '[]', $4)`,
						account, "pay-"+states[len(states)-1], state, noon.UnixMicro())
				}
			}
		}
		return errors.Join(errs...)
	})
	if err != nil {
		t.Fatal(err)
	}
	return dsn
}

func TestADatabaseFromBeforeThereWereHoldsIsCarriedOver(t *testing.T) {
	t.Parallel()
	dsn := before(t)
	s := openStore(t, dsn)
	var got []string
	page, err := s.List(t.Context(), "acc-b", 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range page.Payments {
		got = append(got, fmt.Sprintf("%s %s, version %d, hold %t, unfinished %t", p.ID, p.State, p.Version, p.Hold, p.Unfinished()))
	}
	want := []string{
		"pay-held in_review, version 2, hold false, unfinished false",
		"pay-refused refused, version 2, hold false, unfinished false",
		"pay-posted posted, version 3, hold false, unfinished false",
		"pay-assessed unknown, version 3, hold false, unfinished true", // it may have been sent to the ledger
		"pay-created created, version 1, hold false, unfinished true",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("payments: -want +got:\n%s", diff)
	}
	if ids, _, err := s.Unfinished(t.Context(), 0, 10); err != nil || !cmp.Equal(ids, []string{"pay-created", "pay-assessed"}) {
		t.Errorf("unfinished: %v (%v)", ids, err)
	}
	// Cursors from before are where they were: odd ones are acc-a's, even ones acc-b's.
	for cursor := int64(1); cursor <= 20; cursor++ {
		for account, rest := range map[string]int64{"acc-a": 1, "acc-b": 0} {
			known, err := s.HasChange(t.Context(), account, cursor)
			if want := cursor%2 == rest || account == "acc-a" && cursor == 20; known != want || err != nil {
				t.Errorf("cursor %d of %s is known: %t (%v), want %t", cursor, account, known, err, want)
			}
		}
	}
	changes, err := s.Changes(t.Context(), "acc-b", 14, 10)
	if err != nil {
		t.Fatal(err)
	}
	got = nil
	for _, c := range changes {
		got = append(got, fmt.Sprintf("%d %s %s", c.Sequence, c.Payment.ID, c.Payment.State))
	}
	if diff := cmp.Diff([]string{"16 pay-refused refused", "18 pay-held created", "20 pay-held in_review", "21 pay-assessed unknown"}, got); diff != "" {
		t.Errorf("what comes after a cursor: -want +got:\n%s", diff)
	}
	// And it goes on from there.
	p := create(t, s, order("request-new", "acc-b", "acc-a"))
	if latest, err := s.Latest(t.Context(), []string{"acc-a", "acc-b"}); err != nil || !cmp.Equal(latest, map[string]int64{"acc-a": 21, "acc-b": 22}) {
		t.Errorf("latest after %s: %v (%v)", p.ID, latest, err)
	}
	held, err := s.Get(t.Context(), "pay-held")
	if err != nil {
		t.Fatal(err)
	}
	if p, err = decide(t.Context(), s, held, payment.Approve); err != nil || p.State != payment.Assessed {
		t.Errorf("review: %s (%v)", p.State, err)
	}
}

// Whoever gets at the database with good intentions is stopped too. Each statement is refused on both kinds.
func TestWhatIsFinalOrHasHappenedIsNotChanged(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		s := openStore(t, dsn)
		p := bring(t, s, create(t, s, order("request-1", "acc-a", "acc-b")), payment.InReview)
		if _, err := decide(t.Context(), s, p, payment.Reject); err != nil {
			t.Fatal(err)
		}
		db := raw(t, dsn)
		for _, statement := range []string{
			"UPDATE payments SET state = 'created'", "DELETE FROM payments", "UPDATE changes SET state = 'posted'", "DELETE FROM changes",
			"UPDATE reviews SET decided_by = 'nobody'", "DELETE FROM reviews",
		} {
			if _, err := db.ExecContext(t.Context(), statement); err == nil {
				t.Errorf("%s: no error", statement)
			}
		}
		var decision, by string
		var at int64
		err := db.QueryRowContext(t.Context(), "SELECT decision, decided_by, decide_time FROM reviews").Scan(&decision, &by, &at)
		if err != nil || decision != "refuse" || by != "spiffe://bank.test/operator" || at != noon.UnixMicro() {
			t.Errorf("decided: %s by %s at %d (%v)", decision, by, at, err)
		}
	})
}

// raw opens a store's database besides it.
func raw(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := database.Open(context.Background(), dsn, os.DirFS("migrations"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}
