package register_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/accounts/internal/register"
)

func TestClose(t *testing.T) {
	t.Parallel()
	const empty, full = true, false
	denied := errors.New("permission denied")
	for name, test := range map[string]struct {
		answers []answer
		want    error
		asked   int
	}{
		"an empty account is closed":                              {[]answer{{empty, nil}}, nil, 2},
		"an account with money stays open":                        {[]answer{{full, nil}}, register.ErrNotEmpty, 1},
		"money that arrives before the attempt is seen":           {[]answer{{empty, nil}, {full, nil}}, register.ErrNotEmpty, 2},
		"no answer from the ledger leaves the account open":       {[]answer{{full, register.ErrBooksAway}}, register.ErrBooksAway, 1},
		"a ledger that goes away half way leaves it open":         {[]answer{{empty, nil}, {empty, register.ErrBooksAway}}, register.ErrBooksAway, 2},
		"a ledger that refuses to answer is not taken for a zero": {[]answer{{empty, nil}, {empty, denied}}, denied, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &books{answers: test.answers}
			r, account := newRegister(t, b)
			closed, err := r.Close(t.Context(), account.ID)
			if !errors.Is(err, test.want) {
				t.Fatalf("%v, want %v", err, test.want)
			}
			if b.asked != test.asked {
				t.Errorf("the ledger was asked %d times, want %d", b.asked, test.asked)
			}
			after, err := r.Get(t.Context(), account.ID)
			if err != nil {
				t.Fatal(err)
			}
			if test.want == nil && (!closed.Closed() || !after.Closed()) {
				t.Error("the account is not closed")
			}
			if test.want != nil && !after.Usable() {
				t.Error("the account is not usable any more")
			}
		})
	}
}

func TestClosingTwiceChangesNothing(t *testing.T) {
	t.Parallel()
	r, account := newRegister(t, &books{answers: []answer{{empty: true}, {empty: true}, {empty: false}}})
	first, err := r.Close(t.Context(), account.ID)
	if err != nil {
		t.Fatal(err)
	}
	second, err := r.Close(t.Context(), account.ID) // also when money reached it meanwhile
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("-first +second:\n%s", diff)
	}
}

func TestAnUnknownAccountCannotBeClosed(t *testing.T) {
	t.Parallel()
	b := &books{answers: []answer{{empty: true}}}
	r, _ := newRegister(t, b)
	if _, err := r.Close(t.Context(), "acc-none"); !errors.Is(err, register.ErrNotFound) {
		t.Errorf("%v, want ErrNotFound", err)
	}
	if b.asked != 0 {
		t.Error("the ledger was asked about an account that does not exist")
	}
}

// The one thing that makes the balance worth asking for: no payment can begin while it is being asked for.
func TestAnAccountIsOutOfUseWhileItsBalanceIsAskedFor(t *testing.T) {
	t.Parallel()
	b := &books{answers: []answer{{empty: true}}}
	r, account := newRegister(t, b)
	usable := map[int]bool{}
	b.before = func(n int) {
		a, err := r.Get(t.Context(), account.ID)
		if err != nil {
			t.Error(err)
		}
		usable[n] = a.Usable()
	}
	if _, err := r.Close(t.Context(), account.ID); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[int]bool{1: true, 2: false}, usable); diff != "" {
		t.Errorf("usable at each question: -want +got:\n%s", diff)
	}
}

func TestACallerWhoLeavesHalfWayLeavesTheAccountUsable(t *testing.T) {
	t.Parallel()
	ctx, leave := context.WithCancel(t.Context())
	b := &books{answers: []answer{{empty: true}}}
	b.before = func(n int) {
		if n == 2 {
			leave()
		}
	}
	r, account := newRegister(t, b)
	if _, err := r.Close(ctx, account.ID); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v, want context.Canceled", err)
	}
	if after, err := r.Get(t.Context(), account.ID); err != nil || !after.Usable() {
		t.Errorf("usable: %t, %v", after.Usable(), err)
	}
}

func TestManyWhoCloseAtOnceGetOneAnswer(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		registers := []*register.Register{replica(t, dsn, alwaysEmpty()), replica(t, dsn, alwaysEmpty())}
		account := open(t, registers[0])
		closed := make([]register.Account, 32)
		var group sync.WaitGroup
		for i := range closed {
			group.Go(func() {
				var err error
				if closed[i], err = registers[i%2].Close(context.Background(), account.ID); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		for _, c := range closed {
			if diff := cmp.Diff(closed[0], c); diff != "" {
				t.Fatalf("-one +other:\n%s", diff)
			}
		}
	})
}
