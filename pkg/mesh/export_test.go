package mesh

// What the benchmark of the check of the live connection adds and leaves out.
var (
	LiveUnary = liveUnary
	LiveCall  = liveCall
)
