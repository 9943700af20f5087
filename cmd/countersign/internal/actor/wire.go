// Package actor lets one program act with the identity of another: it starts a copy of this CLI that has a registration entry of
// its own, and has it make calls. The copy gets its identity as every workload does, by attestation; nothing but requests and
// answers passes between the two, JSON messages over standard input and output.
package actor

import "encoding/json"

// hello is what an actor says first.
type hello struct {
	SPIFFEID string `json:"spiffe_id"`
	Serial   string `json:"serial"`
}

// order asks an actor for one unary call.
type order struct {
	// Method is "package.Service/Method", one that the CLI has the contract of.
	Method string `json:"method"`
	// Request is the request in protobuf's JSON form.
	Request json.RawMessage `json:"request"`
	// TraceParent starts the trace that the call belongs to (W3C Trace Context §3.2).
	TraceParent string `json:"traceparent,omitempty"`
}

// answer is how the call went.
type answer struct {
	// Response is the response in protobuf's JSON form.
	Response json.RawMessage `json:"response,omitempty"`
	// Status is a google.rpc.Status, serialized, when the call failed.
	Status []byte `json:"status,omitempty"`
}
