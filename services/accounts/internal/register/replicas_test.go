package register_test

import (
	"errors"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/accounts/internal/register"
)

func TestAReplicaThatStartsLeavesAloneWhatAnotherIsClosing(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		b := alwaysEmpty()
		r := replica(t, dsn, b)
		account := open(t, r)
		b.before = func(n int) {
			if n == 2 && usable(t, replica(t, dsn, alwaysEmpty()), account.ID) {
				t.Error("a replica that started says that the account is usable, while another one is closing it")
			}
		}
		if closed, err := r.Close(t.Context(), account.ID); err != nil || !closed.Closed() {
			t.Fatalf("closed: %t, %v", closed.Closed(), err)
		}
		if b.asked != 2 {
			t.Errorf("the ledger was asked %d times, want 2: the attempt did not succeed at once", b.asked)
		}
	})
}

// left begins to close an account, as a process does that dies then.
func left(t *testing.T, dsn, accountID string, until time.Time) {
	t.Helper()
	account, err := openStore(t, dsn).BeginClosing(t.Context(), accountID, register.Attempt{Name: "of the dead", Until: until})
	if err != nil || account.Closing.Name != "of the dead" {
		t.Fatalf("%+v, %v", account, err)
	}
}

func TestAnAttemptOfAProcessThatDiedEndsByItself(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]func(*testing.T, *register.Register, string) (bool, error){
		"by who asks for the account": func(t *testing.T, r *register.Register, id string) (bool, error) {
			t.Helper()
			return usable(t, r, id), nil
		},
		"by who lists the accounts": func(t *testing.T, r *register.Register, _ string) (bool, error) {
			t.Helper()
			page, err := r.List(t.Context(), "alice", 0, 10)
			return err == nil && page.Accounts[0].Usable(), err
		},
		"by who freezes it": func(t *testing.T, r *register.Register, id string) (bool, error) {
			t.Helper()
			account, err := r.Freeze(t.Context(), id, "spiffe://bank.test/operator", "fraud")
			if errors.Is(err, register.ErrBusy) {
				return false, nil
			}
			return account.Frozen(), err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			databasetest.Each(t, func(t *testing.T, dsn string) {
				c := newClock()
				r := replica(t, dsn, alwaysEmpty(), register.WithClock(c.Now))
				account := open(t, r)
				left(t, dsn, account.ID, c.Now().Add(time.Minute))
				c.Add(time.Minute - time.Microsecond)
				if free, err := ask(t, r, account.ID); free || err != nil {
					t.Errorf("before its time: given up: %t, %v", free, err)
				}
				c.Add(time.Microsecond)
				if free, err := ask(t, r, account.ID); !free || err != nil {
					t.Errorf("when its time is over: given up: %t, %v", free, err)
				}
			})
		})
	}
}

func TestWhoClosesAnAccountNeedNotWaitForAnAttemptThatWasLeft(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		r := replica(t, dsn, alwaysEmpty())
		account := open(t, r)
		left(t, dsn, account.ID, time.Now().Add(time.Hour))
		if closed, err := r.Close(t.Context(), account.ID); err != nil || !closed.Closed() {
			t.Errorf("closed: %t, %v", closed.Closed(), err)
		}
	})
}

// Clocks decide when an attempt is given up, and nothing else. Here a replica whose clock is a day ahead gives one up that is being made, tells payments that the account
// is usable, and money comes in. The other replica, by whose clock there is plenty of time, must not close it.
func TestAnAttemptThatWasGivenUpCannotSucceedWhateverTheClocks(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		ahead, behind := newClock(), newClock()
		ahead.Add(24 * time.Hour)
		b := &books{answers: []answer{{empty: true}, {empty: true}, {empty: false}}} // the money is there after the second answer
		r, other := replica(t, dsn, b, register.WithClock(behind.Now)), replica(t, dsn, alwaysEmpty(), register.WithClock(ahead.Now))
		account := open(t, r)
		b.before = func(n int) {
			if n == 2 && !usable(t, other, account.ID) {
				t.Error("the replica with the clock ahead did not give the attempt up")
			}
		}
		if closed, err := r.Close(t.Context(), account.ID); !errors.Is(err, register.ErrNotEmpty) {
			t.Errorf("closed: %t, %v; want ErrNotEmpty", closed.Closed(), err)
		}
		if !usable(t, r, account.ID) {
			t.Error("the account is not usable any more")
		}
	})
}
