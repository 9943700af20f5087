package mesh

import "time"

// WithLeastDeadline sets what must be left of a caller's deadline, for tests on machines that may be slow.
func WithLeastDeadline(d time.Duration) ServerOption {
	return func(o *serverOptions) { o.limits.LeastDeadline = d }
}

// The interceptors of live connections, for tests that put something else around them than a chain.
var (
	LiveUnary  = liveUnary
	LiveStream = liveStream
	LiveCall   = liveCall
)
