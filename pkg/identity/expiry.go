package identity

import (
	"context"
	"log/slog"
	"time"
)

// lookInterval is how often the clock is looked at, at least: a timer does not see a machine sleep nor a clock that is set.
const lookInterval = time.Second

// expired reports whether the SVID has expired, by the wall clock. The caller holds mu.
func (s *Source) expired() bool { return !s.opts.now().Before(s.held.notAfter) }

// guard announces the moment at which the SVID expires, whatever the Workload API is doing.
func (s *Source) guard(ctx context.Context) {
	for {
		changed := s.Changed()
		s.noteExpiry()
		timer := time.NewTimer(s.untilExpiry())
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// noteExpiry logs and announces that the SVID has expired, once, or that it has not after all, because the clock was set back.
func (s *Source) noteExpiry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil || s.expired() == (s.noted == s.held) {
		return
	}
	id, serial := s.held.svid.ID.String(), s.held.serial
	if s.noted == s.held {
		s.noted = nil
		s.log.add(slog.LevelWarn, "the clock was set back, the identity has not expired yet", "id", id, "serial", serial, "expires", stamp(s.held.notAfter))
	} else {
		s.noted = s.held
		s.log.add(slog.LevelError, "identity expired, no longer used", "id", id, "serial", serial, "expired", stamp(s.held.notAfter), "last_answer", s.lastErr)
	}
	s.broadcast()
}

// patience returns how long to leave the Workload API alone between two attempts at most: a tenth of what is left of the SVID, so that an API
// that comes and goes is not missed each time until it is too late, and never more than lastRetry.
func (s *Source) patience() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil || s.withdrawn || s.expired() {
		return lastRetry
	}
	return min(lastRetry, max(firstRetry, s.held.notAfter.Sub(s.opts.now())/10))
}

// isOverdue reports whether the API has let the SVID expire. While the identity is withdrawn there is no other to come.
func (s *Source) isOverdue() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.withdrawn && s.expired()
}

// untilExpiry returns how long to wait before looking at the clock again: not beyond the SVID's expiry.
func (s *Source) untilExpiry() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil {
		return lookInterval
	}
	if left := s.held.notAfter.Sub(s.opts.now()); left > 0 {
		return min(left, lookInterval)
	}
	return lookInterval
}
