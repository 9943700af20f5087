package bank

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// told is what a demo has to say, a chapter after the other: the beginning of its title, and what was checked in it. A demo that leaves a chapter out, or
// checks nothing in it, is as content as one that holds.
var told = []struct {
	title string
	says  []string
}{
	{"Alice and Bob become customers", []string{"the code that Bob used enrols no second phone"}},
	{"They open accounts", []string{"Alice has an account", "Bob has an account"}},
	{"Alice pays cash in", []string{"are in the books"}},
	{"Alice pays Bob", []string{"went from Alice to Bob"}},
	{"The books balance", nil},
	{"For a large payment", nil},
	{"Risk refuses a payment", []string{"is refused", "by risk, for its amount"}},
	{"Risk wants a person", []string{"is held", "it is in review, with the reason"}},
	{"Bob's account is frozen", []string{"Bob's account is frozen, and takes no payment"}},
	{"Risk is away", []string{"payments has no connection to risk any more"}},
	{"A risk service that was broken into", []string{"ledger answers PERMISSION_DENIED", "audit has the decision"}},
	{"Alice's token is stolen", []string{
		"with Alice's phone the token is good", "from Mallory's phone the answer is 401", "over gRPC it is UNAUTHENTICATED", "and sees no other",
	}},
	{"A transaction token is captured", []string{
		"ledger answers PERMISSION_DENIED", "payments answers PERMISSION_DENIED", "audit has the decision", "audit has whose token it was", "what the token is for, and nothing else, is done with it",
	}},
	{"Bob's old phone is stolen", []string{
		"the thief is refused", "its last call was let in within 1s of the revocation", "what it was watching is cut", "it saw nothing more within 1s of the revocation",
	}},
	{"Callers without an identity", []string{
		"a caller with no certificate is refused in the handshake", "a self-signed certificate that claims", "another trust domain's authority",
	}},
	{"Payments go on while identities rotate", []string{"got a new SVID", ", 0 failed"}},
}

var titleLine = regexp.MustCompile(`(?m)^(\d+)  (.+)$`)

// StoryTold wants of what a demo has printed all that it has to say, in order and with each check held.
func StoryTold(t testing.TB, out string) {
	t.Helper()
	titles := titleLine.FindAllStringSubmatchIndex(out, -1)
	if len(titles) != len(told) {
		t.Errorf("the demo has %d chapters, want %d:\n%s", len(titles), len(told), out)
		return
	}
	for i, want := range told {
		end := len(out)
		if i+1 < len(titles) {
			end = titles[i+1][0]
		}
		title, text := out[titles[i][4]:titles[i][5]], out[titles[i][1]:end]
		if !strings.HasPrefix(title, want.title) {
			t.Errorf("chapter %d is %q, want %q", i+1, title, want.title)
		}
		for _, says := range append([]string{""}, want.says...) {
			if held := regexp.MustCompile(`(?m)^   ✓ .*` + regexp.QuoteMeta(says)); !held.MatchString(text) {
				t.Errorf("chapter %d, %s: it is not said that %q holds:\n%s", i+1, title, says, text)
			}
		}
	}
	if all := fmt.Sprintf("All %d checks hold.", strings.Count(out, "\n   ✓ ")); !strings.Contains(out, all) {
		t.Errorf("it is not said at the end: %s", all)
	}
}
