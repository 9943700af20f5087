package story

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
)

func narrator() (*player, *bytes.Buffer) {
	var out bytes.Buffer
	return &player{out: console.New(&out, nil)}, &out
}

// A story that cannot fail tells nothing: a device that is let in too long after its revocation must be found out.
func TestADeviceThatIsCutTooLateIsFoundOut(t *testing.T) {
	t.Parallel()
	revoked := time.Now()
	for name, test := range map[string]struct {
		end         ended
		differences int
	}{
		"at once":                 {ended{revoked.Add(20 * time.Millisecond), status.Error(codes.Unavailable, "cut")}, 0},
		"before it was asked":     {ended{revoked.Add(-time.Millisecond), status.Error(codes.Unauthenticated, "revoked")}, 0},
		"a second and more later": {ended{revoked.Add(1001 * time.Millisecond), status.Error(codes.Unavailable, "cut")}, 1},
		"as if it were finished":  {ended{revoked, errors.New("EOF")}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, out := narrator()
			watching := make(chan ended, 1)
			watching <- test.end
			p.cut(t.Context(), watching, revoked)
			if p.checks != 2 || p.differences != test.differences {
				t.Errorf("%d of %d checks differ, want %d of 2:\n%s", p.differences, p.checks, test.differences, out)
			}
		})
	}
}

func TestTheLastCallThatIsLetInIsTheOneThatCounts(t *testing.T) {
	t.Parallel()
	n := 0
	last, refusal, err := callUntilRefused(t.Context(), func() error {
		if n++; n == 3 {
			return status.Error(codes.Unauthenticated, "revoked")
		}
		return nil
	})
	if err != nil || refusal == nil || refusal.Status.Code() != codes.Unauthenticated || n != 3 || time.Since(last) > time.Minute {
		t.Errorf("after %d calls, the last at %v: %v, %v", n, last, refusal, err)
	}
	broken := errors.New("dropped")
	if _, _, err := callUntilRefused(t.Context(), func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("a phone that breaks is not one that is refused: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, _, err = callUntilRefused(ctx, func() error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the story was interrupted: %v", err)
	}
}

// What is forged for Mallory must be the payment that Alice asked for but for the payee: else something else could be why it is denied.
func TestWhatIsForgedDiffersByThePayeeAlone(t *testing.T) {
	t.Parallel()
	p, _ := narrator()
	p.run, p.alice.account, p.bob.account, p.mallory.account = "1", "acc-alice", "acc-bob", "acc-mallory"
	asked := p.wish()
	forged := p.toMallory(asked)
	if forged.GetPayeeAccountId() != "acc-mallory" || !strings.HasPrefix(asked.GetPaymentId(), "pay-") || len(asked.GetPaymentId()) != 30 {
		t.Errorf("asked for %v, forged %v", asked, forged)
	}
	forged.PayeeAccountId = asked.GetPayeeAccountId()
	if forged.String() != asked.String() {
		t.Errorf("asked for %v, forged %v", asked, forged)
	}
}
