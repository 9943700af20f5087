// Package mesh puts the parts of the library together in the one right order.
//
// Run is the life of a process in the mesh, and what most programs want. NewServer and Dial are for programs that have a life
// cycle of their own: they need a transport.Registry over an identity.Source, and the server an authz.File.
//
// A call is admitted by its headers: one that the policy denies ends there, recorded, counted and logged, before any of its
// messages is read. It then goes through telemetry, metrics, access log, recovery, the check of the live connection, authorization,
// the limits of what the server takes on (package overload) and validation, in this order, before it reaches its handler. A panic on
// the way, inside authorization too, is counted and logged and lets nobody in. There is no option that leaves a step out.
//
// People from outside the mesh have no SPIFFE ID, and come over an Edge: their calls go the same way, with what authenticates people in the place of the policy.
//
// The limits come after authorization, so that a peer that may not call takes no slot and is told nothing of how full the server is, and before
// validation, which costs something. Health, reflection and administration have a few slots of their own.
//
// A client spreads its calls over all servers at its target and, where the policy lets it watch their health, over those alone that serve: one that drains gets no new
// calls. The rule for that stands in the policy, at grpc.health.v1.Health, as one for every peer that calls somebody; no method is open to a peer without a rule. A
// client whose policy has no such rule watches nothing, and one that a server denies it, or has no room for, is answered UNIMPLEMENTED and goes on without: so a rule
// that was forgotten costs a better balance, and no call.
package mesh
