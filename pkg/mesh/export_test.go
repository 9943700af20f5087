package mesh

// The interceptors of live connections, for tests that put something else around them than a chain.
var (
	LiveUnary  = liveUnary
	LiveStream = liveStream
	LiveCall   = liveCall
)
