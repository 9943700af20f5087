package identity

import "time"

// WithSourceClock sets the clock of a Source.
func WithSourceClock(now func() time.Time) Option { return func(o *options) { o.now = now } }

// Backoff is how long a Source waits before its next attempt.
func Backoff(attempt int) time.Duration { return backoff(attempt, lastRetry) }

// Patience is how long a Source leaves the Workload API alone between two attempts at most.
func (s *Source) Patience() time.Duration { return s.patience() }

// Rules are the names of all rules.
func Rules() []string {
	var names []string
	for _, r := range rules() {
		names = append(names, r.name)
	}
	return names
}
