package customer

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// RFC 6238, appendix B, has the secret "12345678901234567890" and codes of eight digits; these are their last six.
const secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"

// codesAt are the codes at a time that stands still but for waits.
func codesAt(unix int64) (c *Codes, waited *time.Duration) {
	now := time.Unix(unix, 0)
	waited = new(time.Duration)
	c = NewCodes(secret)
	c.now = func() time.Time { return now }
	c.wait = func(_ context.Context, d time.Duration) error {
		*waited += d
		now = now.Add(d)
		return nil
	}
	return c, waited
}

func TestACodeIsTheOneOfItsTime(t *testing.T) {
	t.Parallel()
	for unix, want := range map[int64]string{59: "287082", 1111111109: "081804", 1234567890: "005924", 20000000000: "353130"} {
		c, _ := codesAt(unix)
		if got, err := c.Next(t.Context()); got != want || err != nil {
			t.Errorf("at %d: %q, %v, want %s", unix, got, err, want)
		}
	}
}

func TestNoCodeIsMadeTwiceAndTheThirdOfAStepWaits(t *testing.T) {
	t.Parallel()
	c, waited := codesAt(1111111080) // a step begins
	seen := make(map[string]bool)
	for i, want := range []time.Duration{0, 0, 30 * time.Second, 60 * time.Second} {
		code, err := c.Next(t.Context())
		if err != nil || seen[code] || *waited != want {
			t.Errorf("code %d is %s, %v, after %v, want one that was not there, after %v", i+1, code, err, *waited, want)
		}
		seen[code] = true
	}
	// Another process of the same customer goes on where this one was.
	next, _ := codesAt(1111111080)
	next.Last = c.Last - 2
	code, err := next.Next(t.Context())
	if err != nil || next.Last != c.Last-1 {
		t.Errorf("the next one is %s of step %d, %v", code, next.Last, err)
	}
}

func TestASecretThatIsNoneIsNotShown(t *testing.T) {
	t.Parallel()
	c, _ := codesAt(59)
	c.secret = "not-base-32!"
	if _, err := c.Next(t.Context()); err == nil || strings.Contains(err.Error(), "not-base-32!") {
		t.Errorf("the error is %v", err)
	}
}

func TestAWaitForACodeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	reason := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(reason)
	if err := wait(ctx, time.Hour); !errors.Is(err, reason) {
		t.Errorf("it ended with %v", err)
	}
}
