package identity

import "time"

// WithFirstMessage sets how long a stream may stay silent at its start.
func WithFirstMessage(d time.Duration) Option { return func(o *options) { o.firstMessage = d } }
