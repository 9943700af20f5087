package oauth

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Somebody who has the password tries codes, and names that he makes up in between, so that the ones he tried for are forgotten.
func TestMadeUpNamesGiveNobodyNewAttempts(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a := newAttempts(func() time.Time { return now })
	guesses := 0
	guess := func() {
		for a.take("alice") == 0 {
			guesses++
		}
	}
	guess()
	if guesses != 10 {
		t.Fatalf("%d attempts at once, want 10", guesses)
	}
	for round := range 3 {
		for i := range 12_000 { // more than are remembered
			a.take(fmt.Sprintf("stranger-%d-%d", round, i))
		}
		now = now.Add(2 * time.Second)
		guess()
	}
	if guesses > 11 {
		t.Errorf("%d attempts in six seconds, want one more", guesses)
	}
}

func TestNamesThatNobodyCanHaveAreOneName(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a := newAttempts(func() time.Time { return now })
	for i := range 11 {
		name := possible(strings.Repeat(fmt.Sprint(i), 15<<10))
		if wait := a.take(name); (wait > 0) != (i == 10) {
			t.Errorf("attempt %d has to wait %v", i, wait)
		}
	}
	for _, name := range []string{"alice", "a.b-c_d@bank.test"} {
		if possible(name) != name {
			t.Errorf("%s is not possible", name)
		}
	}
}
