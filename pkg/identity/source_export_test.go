package identity

import (
	"log/slog"
	"time"
)

// WithFirstMessage sets how long a stream may stay silent at its start.
func WithFirstMessage(d time.Duration) Option { return func(o *options) { o.firstMessage = d } }

// MaxUnwritten is how many lines wait for a log that is slow.
const MaxUnwritten = maxUnwritten

// Lines are log lines that wait to be written.
type Lines struct {
	Add  func(level slog.Level, msg string, args ...any)
	Wait func()
}

// NewLines returns the lines of a log.
func NewLines(log slog.Handler) Lines {
	l := &lines{handler: log}
	return Lines{Add: l.add, Wait: l.wait}
}
