package bank

import (
	"context"
	"crypto/hmac"
	"crypto/sha1" // what authenticator apps use (RFC 6238 §1.2)
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"sync"
	"time"
)

// otpStep is how long a one-time code is shown (RFC 6238 §5.2).
const otpStep = 30 * time.Second

// authenticator shows the one-time codes of a customer, each once, as the bank takes each once. It is safe for concurrent use.
type authenticator struct {
	secret string // base 32

	mu   sync.Mutex
	last int64
}

// Code returns a code that was not used yet. The bank takes the next one too, for the sake of clocks that are not quite right; who has used up
// both waits.
func (a *authenticator) Code(ctx context.Context) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	step := max(a.last+1, time.Now().Unix()/int64(otpStep.Seconds()))
	if wait := time.Until(time.Unix((step-1)*int64(otpStep.Seconds()), 0)); wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	a.last = step
	return OneTimeCode(a.secret, step)
}

// OneTimeCode is a code as RFC 6238 has it: of six digits, for the step of thirty seconds with that number.
func OneTimeCode(secret string, step int64) (string, error) {
	key, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(secret)
	if err != nil {
		return "", fmt.Errorf("the secret of one-time codes: %w", err)
	}
	mac := hmac.New(sha1.New, key)
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(step)))
	sum := mac.Sum(nil)
	offset := sum[len(sum)-1] & 0xf // RFC 4226 §5.3
	return fmt.Sprintf("%06d", binary.BigEndian.Uint32(sum[offset:])&0x7fffffff%1_000_000), nil
}
