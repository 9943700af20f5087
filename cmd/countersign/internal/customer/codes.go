package customer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/totp"
)

// period is how long a one-time code is the one (RFC 6238 §4.1).
const period = 30 * time.Second

// Codes makes one-time codes, as an authenticator app does, and none of them twice: a code is good once. It is for one goroutine. The zero value
// makes none; see NewCodes.
type Codes struct {
	secret string
	// Last is the step of the last code that was made; one of another process is to be set before the next is.
	Last int64
	now  func() time.Time
	wait func(context.Context, time.Duration) error
}

// NewCodes returns the codes of a secret in base 32.
func NewCodes(secret string) *Codes {
	return &Codes{secret: secret, now: time.Now, wait: wait}
}

// Next returns a code that was not used yet. The server takes the code of the step to come as well (RFC 6238 §5.2), so the second one within a step
// comes at once, and only the third has to wait.
func (c *Codes) Next(ctx context.Context) (string, error) {
	next := max(step(c.now()), c.Last+1)
	if next-step(c.now()) > 1 {
		begin := time.Unix((next-1)*int64(period/time.Second), 0)
		if err := c.wait(ctx, begin.Sub(c.now())); err != nil {
			return "", err
		}
	}
	code, err := c.at(next)
	if err == nil {
		c.Last = next
	}
	return code, err
}

func (c *Codes) at(step int64) (string, error) {
	code, err := totp.GenerateCodeCustom(c.secret, time.Unix(step*int64(period/time.Second), 0), totp.ValidateOpts{
		Period: uint(period / time.Second), Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1,
	})
	if err != nil {
		return "", errors.New("the secret of the one-time codes is not in base 32") // and is not shown
	}
	return code, nil
}

// Again returns the last code that was made once more, for those who want to see that it is not good twice.
func (c *Codes) Again() (string, error) { return c.at(c.Last) }

func step(t time.Time) int64 { return t.Unix() / int64(period/time.Second) }

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the next one-time code: %w", context.Cause(ctx))
	}
}
