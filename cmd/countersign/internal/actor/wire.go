// Package actor lets one program act with the identity of another: a copy of this CLI that has a registration entry of its own makes calls for
// it. The copy is a process that is started for the purpose (Processes), or one that runs already, as in another container, and is
// reached over a unix socket (Sockets, and Listen and ServeAll on its side). It gets its identity as every workload does, by attestation; nothing
// but requests and answers passes between the two, JSON messages over standard input and output or the socket.
package actor

import "encoding/json"

// hello is what an actor says first.
type hello struct {
	SPIFFEID string `json:"spiffe_id"`
	// Servers are the SPIFFE IDs of the servers that the actor calls.
	Servers []string `json:"servers"`
	// Failure is why there is no actor.
	Failure string `json:"failure,omitempty"`
}

// order asks an actor for one unary call.
type order struct {
	// Server is the SPIFFE ID of the server to call, one of the actor's.
	Server string `json:"server"`
	// Method is "package.Service/Method", one that the CLI has the contract of.
	Method string `json:"method"`
	// Request is the request in protobuf's JSON form.
	Request json.RawMessage `json:"request"`
	// TraceParent starts the trace that the call belongs to (W3C Trace Context §3.2).
	TraceParent string `json:"traceparent,omitempty"`
	// TransactionToken is what the call shows, if anything (package txntoken).
	TransactionToken string `json:"txn_token,omitempty"`
}

// answer is how the call went.
type answer struct {
	// Response is the response in protobuf's JSON form.
	Response json.RawMessage `json:"response,omitempty"`
	// Status is a google.rpc.Status, serialized, when the call failed.
	Status []byte `json:"status,omitempty"`
	// Failure is why the order was not carried out; the actor ends with it.
	Failure string `json:"failure,omitempty"`
}
