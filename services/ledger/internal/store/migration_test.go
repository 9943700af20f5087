package store_test

import (
	"bytes"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store/migrations"
)

// Books from before there were holds are carried over: what is in them stays, to the microsecond, and goes on.
func TestBooksFromBeforeHoldsAreCarriedOver(t *testing.T) {
	t.Parallel()
	dsn := databasetest.SQLite(t)
	first, err := fs.ReadFile(migrations.FS, "sqlite/00001_books.sql")
	if err != nil {
		t.Fatal(err)
	}
	old, err := database.Open(t.Context(), dsn, fstest.MapFS{"sqlite/00001_books.sql": {Data: first}})
	if err != nil {
		t.Fatal(err)
	}
	deposit, payment := pay("deposit-1", cash, account(1), 100), pay("payment-1", account(1), account(2), 30)
	depositDigest, paymentDigest := deposit.Digest(), payment.Digest()
	for _, step := range []struct {
		statement string
		args      []any
	}{
		{"INSERT INTO transfers VALUES ($1, $2, $3, 1000001)", []any{deposit.ID, depositDigest[:], deposit.Description}},
		{"INSERT INTO transfers VALUES ($1, $2, $3, 2000002)", []any{payment.ID, paymentDigest[:], payment.Description}},
		{"INSERT INTO entries VALUES (1, 'deposit-1', 'bank-cash', 'EUR', -100, -100), (2, 'deposit-1', $1, 'EUR', 100, 100), " +
			"(5, 'payment-1', $1, 'EUR', -30, 70), (6, 'payment-1', $2, 'EUR', 30, 30)", []any{account(1), account(2)}},
		{"INSERT INTO balances VALUES ('bank-cash', 'EUR', -100), ($1, 'EUR', 70), ($2, 'EUR', 30)", []any{account(1), account(2)}},
	} {
		if _, err := old.ExecContext(t.Context(), step.statement, step.args...); err != nil {
			t.Fatal(err)
		}
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}

	s := openStore(t, dsn)
	want := ledger.TrialBalance{Sums: []ledger.Money{eur(0)}, Transfers: 2, Entries: 4}
	if diff := cmp.Diff(want, mustBalance(t, s)); diff != "" {
		t.Errorf("trial balance (-want +got):\n%s", diff)
	}
	if again := mustPost(t, s, deposit); !again.Time.Equal(time.UnixMicro(1000001)) || again.Digest != depositDigest {
		t.Errorf("an old transfer again = %v", again)
	}
	mustReserve(t, s, hold("h-1", account(1), 70))
	mustPost(t, s, capture("payment-2", "h-1", account(1), account(2), 70))
	entries, _, err := s.Entries(t.Context(), account(1), 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	var sequences []int64
	for _, e := range entries {
		sequences = append(sequences, e.Sequence)
	}
	if len(sequences) != 3 || !slices.Equal(sequences[1:], []int64{5, 2}) || sequences[0] < 7 {
		t.Errorf("sequences %v; want a new one, 5 and 2", sequences)
	}
	mustBalance(t, s)
}

// What a database that was carried over has is what a new one has.
func TestTheSchemaIsTheSameHoweverItCameToBe(t *testing.T) {
	t.Parallel()
	db := openDatabase(t, databasetest.SQLite(t))
	var before bytes.Buffer
	rows, err := db.QueryContext(t.Context(), "SELECT type || ' ' || name || ' on ' || tbl_name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' AND name NOT LIKE 'goose%' ORDER BY 1")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		before.WriteString(line + "\n")
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	want := strings.TrimLeft(`
index entries_by_account on entries
index holds_active on holds
table balances on balances
table entries on entries
table holds on holds
table transfers on transfers
trigger entries_delete on entries
trigger entries_replace on entries
trigger entries_update on entries
trigger holds_delete on holds
trigger holds_replace on holds
trigger holds_update on holds
trigger transfers_delete on transfers
trigger transfers_replace on transfers
trigger transfers_update on transfers
`, "\n")
	if diff := cmp.Diff(want, before.String()); diff != "" {
		t.Errorf("schema (-want +got):\n%s", diff)
	}
}

// What the program cannot do because its rules are right, it could not do if they were wrong.
func TestTheDatabaseGuardsHoldsToo(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		s := openStore(t, dsn)
		mustPost(t, s, pay("deposit-1", cash, account(1), 100))
		mustReserve(t, s, hold("active", account(1), 10))
		mustReserve(t, s, hold("captured", account(1), 10))
		mustPost(t, s, capture("payment-1", "captured", account(1), account(2), 10))
		mustReserve(t, s, hold("released", account(1), 10))
		if _, err := s.Release(t.Context(), "released"); err != nil {
			t.Fatal(err)
		}
		db := openDatabase(t, dsn)
		for _, statement := range []string{
			"UPDATE holds SET minor_units = 5 WHERE hold_id = 'active'",
			"UPDATE holds SET state = 'released', end_time = 1, minor_units = 5 WHERE hold_id = 'active'",
			"UPDATE holds SET state = 'released', end_time = 1, account_id = 'acc-x' WHERE hold_id = 'active'",
			"UPDATE holds SET state = 'released' WHERE hold_id = 'active'",
			"UPDATE holds SET state = 'captured', end_time = 1 WHERE hold_id = 'active'",
			"UPDATE holds SET state = 'captured', end_time = 1, transfer_id = 'nobody' WHERE hold_id = 'active'",
			"UPDATE holds SET state = 'active', end_time = NULL WHERE hold_id = 'released'",
			"UPDATE holds SET state = 'released', transfer_id = NULL WHERE hold_id = 'captured'",
			"UPDATE holds SET end_time = 1 WHERE hold_id = 'released'",
			"DELETE FROM holds WHERE hold_id = 'released'",
			"INSERT INTO holds (hold_id, account_id, currency_code, minor_units, state, create_time) VALUES ('h-1', 'bank-cash', 'EUR', 1, 'active', 1)",
			"INSERT INTO holds (hold_id, account_id, currency_code, minor_units, state, create_time) VALUES ('h-1', 'acc-x', 'EUR', 0, 'active', 1)",
			"INSERT INTO holds (hold_id, account_id, currency_code, minor_units, state, create_time) VALUES ('active', 'acc-x', 'EUR', 1, 'active', 1)",
			"UPDATE balances SET minor_units = 9 WHERE account_id = '" + account(1) + "'",
			"UPDATE balances SET held = 91 WHERE account_id = '" + account(1) + "'",
			"UPDATE balances SET held = -1 WHERE account_id = '" + account(1) + "'",
			"UPDATE transfers SET description = 'gift'",
			"DELETE FROM entries",
			"INSERT INTO entries (transfer_id, account_id, currency_code, minor_units, balance_after) VALUES ('deposit-1', 'acc-x', 'EUR', -1, -1)",
			"INSERT INTO entries (transfer_id, account_id, currency_code, minor_units, balance_after) VALUES ('nobody', 'acc-x', 'EUR', 1, 1)",
		} {
			if _, err := db.ExecContext(t.Context(), statement); err == nil {
				t.Errorf("the database takes %s", statement)
			}
		}
		if _, err := db.ExecContext(t.Context(), "UPDATE holds SET state = 'released', end_time = 1 WHERE hold_id = 'active'"); err != nil {
			t.Errorf("a hold cannot end: %v", err)
		}
	})
}
