package store_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store/migrations"
)

// booksAt returns books at a DSN with a transfer, an active hold and a released one, and a way to the database past the store.
func booksAt(t *testing.T, dsn string) (*store.Store, *sql.DB) {
	t.Helper()
	s := openStore(t, dsn)
	mustPost(t, s, pay("deposit-1", cash, account(1), 100))
	for _, id := range []string{"hold-active", "hold-released"} {
		if _, err := s.Reserve(t.Context(), ledger.Hold{ID: id, Account: account(1), Amount: eur(5)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Release(t.Context(), "hold-released"); err != nil {
		t.Fatal(err)
	}
	db, err := database.Open(t.Context(), dsn, migrations.FS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, db
}

func TestThePastCannotBeChanged(t *testing.T) {
	t.Parallel()
	of := map[string][]string{
		"sqlite": {
			"INSERT OR REPLACE INTO transfers SELECT transfer_id, digest, 'gift', post_time FROM transfers",
			"INSERT OR REPLACE INTO entries SELECT sequence, transfer_id, account_id, currency_code, 1000, balance_after FROM entries WHERE minor_units = 100",
			"INSERT OR REPLACE INTO entries SELECT 1, transfer_id, account_id, 'USD', 1000, balance_after FROM entries WHERE minor_units = 100",
			"INSERT OR REPLACE INTO holds SELECT number, hold_id, account_id, currency_code, 1, state, transfer_id, create_time, end_time FROM holds",
		},
		"postgres": {"TRUNCATE entries", "TRUNCATE holds", "TRUNCATE transfers CASCADE"},
	}
	databasetest.Each(t, func(t *testing.T, dsn string) {
		s, db := booksAt(t, dsn)
		kind, _, _ := strings.Cut(dsn, ":")
		for _, statement := range append(of[kind],
			"UPDATE entries SET minor_units = 1000 WHERE minor_units = 100",
			"DELETE FROM entries",
			"UPDATE transfers SET description = 'gift'",
			"DELETE FROM transfers",
			"DELETE FROM holds",
			"UPDATE holds SET minor_units = 1 WHERE state = 'active'",
			"UPDATE holds SET state = 'active', end_time = NULL WHERE state = 'released'",
			"UPDATE holds SET state = 'captured', transfer_id = 'deposit-1' WHERE state = 'released'",
		) {
			_, err := db.ExecContext(t.Context(), statement)
			if err == nil || !strings.Contains(err.Error(), "append-only") {
				t.Errorf("%s: %v; want a refusal", statement, err)
			}
		}
		mustBalance(t, s)
		if got := balance(t, s, account(1)); got != 100 {
			t.Errorf("balance = %d, want 100", got)
		}
	})
}

func TestNoStatementOverdrawsACustomer(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		_, db := booksAt(t, dsn)
		const add = "INSERT INTO entries (transfer_id, account_id, currency_code, minor_units, balance_after) VALUES ('deposit-1', $1, 'USD', -1, -1)"
		if _, err := db.ExecContext(t.Context(), add, account(1)); err == nil || !strings.Contains(err.Error(), "no_overdraft") {
			t.Errorf("a customer's entry below zero: %v; want the constraint no_overdraft", err)
		}
		if _, err := db.ExecContext(t.Context(), add, cash); err != nil {
			t.Errorf("the bank's entry below zero: %v", err)
		}
		for _, change := range []string{"minor_units = 4", "held = 101"} {
			_, err := db.ExecContext(t.Context(), "UPDATE balances SET "+change+" WHERE account_id = $1", account(1))
			if err == nil || !strings.Contains(err.Error(), "no_overspending") {
				t.Errorf("%s: %v; want the constraint no_overspending", change, err)
			}
		}
	})
}

// unlocked runs statements as somebody does who can write the database, with what guards it out of the way.
func unlocked(t *testing.T, dsn string, db *sql.DB, statement string) {
	t.Helper()
	unlock := "SET session_replication_role = replica"
	if strings.HasPrefix(dsn, "sqlite:") {
		unlock = "DROP TRIGGER entries_update; DROP TRIGGER entries_delete; DROP TRIGGER transfers_update"
	}
	conn, err := db.Conn(t.Context()) // what is set is the connection's
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for _, statement := range []string{unlock, statement} {
		if _, err := conn.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
}

// Whoever can write the database can switch a trigger off. Check finds what was done then.
func TestCheckFindsTampering(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		statement string
		balanced  bool // the sums alone look right
		want      string
	}{
		"an amount that grew":                     {"UPDATE entries SET minor_units = 1000 WHERE minor_units = 100", false, "transfer deposit-1 does not sum to zero in EUR"},
		"a transfer that was doubled":             {"UPDATE entries SET minor_units = 10 * minor_units WHERE transfer_id = 'deposit-1'", true, "account " + account(1) + " in EUR: a balance after an entry"},
		"an entry that was moved to another":      {"UPDATE entries SET account_id = 'acc-x' WHERE minor_units = 30", true, "account acc-x in EUR: the balance is not that after the last entry"},
		"an entry that was removed":               {"DELETE FROM entries WHERE minor_units = 30", false, "transfer payment-1 does not sum to zero"},
		"a transfer without its entries":          {"DELETE FROM entries WHERE transfer_id = 'payment-1'", true, "transfer payment-1 has fewer than two entries"},
		"a balance that was written by itself":    {"UPDATE balances SET minor_units = 7 WHERE account_id = 'bank-cash'", true, "account bank-cash in EUR: the balance is not"},
		"a balance of an account without entries": {"INSERT INTO balances VALUES ('acc-x', 'EUR', 7, 0)", true, "account acc-x in EUR: the balance is not"},
		"a balance that was removed":              {"DELETE FROM balances WHERE account_id = 'bank-cash'", true, "account bank-cash in EUR: the balance is not"},
		"what is held, written by itself":         {"UPDATE balances SET held = 1 WHERE account_id = '" + account(2) + "'", true, "account " + account(2) + " in EUR: what is held is not the sum"},
		"a hold that was made by itself":          {"INSERT INTO holds (hold_id, account_id, currency_code, minor_units, state, create_time) VALUES ('hold-0001', '" + account(2) + "', 'EUR', 1, 'active', 0)", true, "account " + account(2) + " in EUR: what is held is not the sum"},
		"money in another currency":               {"UPDATE entries SET currency_code = 'USD' WHERE minor_units = 100", false, "transfer deposit-1 does not sum to zero in USD"},
		"a balance at the end of 64 bits":         {"UPDATE entries SET balance_after = 9223372036854775807, minor_units = -minor_units", true, "account " + account(1) + " in EUR: a balance after an entry"},
		"sums that leave 64 bits":                 {"UPDATE entries SET minor_units = 9223372036854775807", false, "the entries in EUR sum to 36893488147419103228"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			databasetest.Each(t, func(t *testing.T, dsn string) {
				s, db := booksAt(t, dsn)
				mustPost(t, s, pay("payment-1", account(1), account(2), 30))
				unlocked(t, dsn, db, tt.statement)
				sums, err := s.Check(t.Context())
				if !errors.Is(err, ledger.ErrDamaged) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("Check = %v; want ErrDamaged with %q", err, tt.want)
				}
				if len(sums.Sums) > 0 && sums.Balanced() != tt.balanced {
					t.Errorf("Balanced = %v, want %v: %+v", sums.Balanced(), tt.balanced, sums)
				}
			})
		})
	}
}

func TestAFailureOfTheDatabaseIsAnError(t *testing.T) {
	t.Parallel()
	s, _ := books(t)
	mustPost(t, s, pay("deposit-1", cash, account(1), 100))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	calls := map[string]func(context.Context) error{
		"Post": func(ctx context.Context) error {
			_, err := s.Post(ctx, pay("deposit-1", cash, account(1), 100))
			return err
		},
		"Balances": func(ctx context.Context) error { _, err := s.Balances(ctx, account(1)); return err },
		"Entries":  func(ctx context.Context) error { _, _, err := s.Entries(ctx, account(1), 0, 1); return err },
		"Check":    func(ctx context.Context) error { _, err := s.Check(ctx); return err },
	}
	for name, call := range calls {
		if err := call(t.Context()); err == nil || errors.Is(err, ledger.ErrDamaged) || errors.Is(err, sql.ErrNoRows) {
			t.Errorf("%s on a closed database = %v", name, err)
		}
	}
}
