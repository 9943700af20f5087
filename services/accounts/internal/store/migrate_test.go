package store_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/accounts/internal/register"
	"github.com/countersign-mesh/countersign/services/accounts/internal/store"
)

// before makes a database as the first version of the schema has it, with content.
func before(t *testing.T) (dsn string) {
	t.Helper()
	dsn = databasetest.SQLite(t)
	text, err := os.ReadFile("migrations/sqlite/00001_accounts.sql")
	if err != nil {
		t.Fatal(err)
	}
	db, err := database.Open(t.Context(), dsn, fstest.MapFS{"sqlite/00001_accounts.sql": {Data: text}})
	if err != nil {
		t.Fatal(err)
	}
	exec := func(statement string, args ...any) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), statement, args...); err != nil {
			t.Fatal(err)
		}
	}
	// Positions were numbered over all customers: alice has 1, 3, 4 and 6.
	for position, customer := range []string{"alice", "bob", "alice", "alice", "bob", "alice"} {
		a, o := account(customer, position+1), opening(customer, position+1)
		exec(`INSERT INTO accounts (account_id, customer_id, display_name, currency_code, request_id, request_digest, open_time)
			VALUES ($1, $2, 'Rent', 'EUR', $3, $4, $5)`, a.ID, customer, o.RequestID, o.Digest(), a.OpenTime.UnixMicro())
	}
	exec(`UPDATE accounts SET closing = 'attempt' WHERE position = 3`)
	exec(`UPDATE accounts SET close_time = $1 WHERE position = 4`, at(7).UnixMicro())
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return dsn
}

func TestADatabaseFromBeforeIsCarriedOver(t *testing.T) {
	t.Parallel()
	s := openStore(t, before(t))
	ids := func(after int64) (ids []string) {
		t.Helper()
		page, err := s.List(t.Context(), "alice", after, 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range page.Accounts {
			ids = append(ids, a.ID+": "+words(a, nil))
		}
		return ids
	}
	// A page token that was given before holds the position 1 and leads on to what it led to.
	open(t, s, "alice", 7)
	overdue := "acc-alice-3: being closed by attempt until " // since long before noon
	got := ids(1)
	if len(got) == 0 || !strings.HasPrefix(got[0], overdue+"-") {
		t.Fatalf("behind the first position: %v, want first %s…", got, overdue)
	}
	if diff := cmp.Diff([]string{"acc-alice-4: closed at 7", "acc-alice-6: open", "acc-alice-7: open"}, got[1:]); diff != "" {
		t.Errorf("behind the first position: -want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"acc-alice-7: open"}, ids(6)); diff != "" {
		t.Errorf("behind what was the last: -want +got:\n%s", diff)
	}
	// A request from before still opens nothing.
	again, err := s.Open(t.Context(), register.Account{ID: "acc-new", CustomerID: "bob", CurrencyCode: "EUR", OpenTime: noon}, opening("bob", 5))
	if err != nil || again.ID != "acc-bob-5" || again.DisplayName != "Rent" || !again.OpenTime.Equal(noon) {
		t.Errorf("the request again: %+v, %v", again, err)
	}
	// Who was closing an account then is gone.
	r := register.New(s, s, s, nil)
	if a, err := r.Get(t.Context(), "acc-alice-3"); err != nil || !a.Usable() {
		t.Errorf("the account that was being closed: %s, want it open", words(a, err))
	}
}

// The last line of defence: what no code of this package does, and the database refuses all the same.
func TestTheDatabaseItselfRefuses(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *store.Store) {
		ctx := context.WithoutCancel(t.Context())
		closed, frozen, other := open(t, s, "alice", 1).ID, open(t, s, "alice", 2).ID, open(t, s, "alice", 3).ID
		for _, o := range []op{{begin, "mine", 1}, {finish, "mine", 2}} {
			o.run(ctx, s, closed)
		}
		op{freeze, "", 1}.run(ctx, s, frozen)
		for _, statement := range []string{
			`UPDATE accounts SET close_time = NULL WHERE account_id = '` + closed + `'`,
			`UPDATE accounts SET display_name = 'x' WHERE account_id = '` + closed + `'`,
			`UPDATE accounts SET close_time = 1 WHERE account_id = '` + frozen + `'`,
			`UPDATE accounts SET closing = 'x', closing_until = 1 WHERE account_id = '` + frozen + `'`,
			`UPDATE accounts SET closing = 'x' WHERE account_id = '` + other + `'`,
			`UPDATE accounts SET customer_id = 'alice' WHERE account_id = '` + other + `'`,
			`UPDATE accounts SET position = 9 WHERE account_id = '` + other + `'`,
			`UPDATE accounts SET currency_code = 'USD' WHERE account_id = '` + other + `'`,
			`DELETE FROM accounts WHERE account_id = '` + other + `'`,
			`UPDATE interventions SET reason = 'another'`,
			`DELETE FROM interventions`,
			`INSERT INTO interventions VALUES ('` + frozen + `', 1, 'freeze', 'x', 'x', 1)`,
			`INSERT INTO interventions VALUES ('` + frozen + `', 2, 'freeze', '', 'x', 1)`,
		} {
			if _, err := s.DB().ExecContext(ctx, statement); err == nil {
				t.Errorf("taken: %s", statement)
			}
		}
		checkInterventions(t, s, frozen, 1)
	})
}
