package main

import "context"

// contests are all that is measured. inCall is the context of a call that a server takes.
func contests(inCall context.Context) []contest {
	allowed := column{name: "allowed by the last rule", questions: last, allowed: true}
	denied := column{name: "denied", questions: stranger}
	both := []shape{spread, heaped}
	return []contest{
		{
			title: "A decision",
			engines: []engine{
				floor(), countersign(), grpcAuthz(inCall), casbinACL(), casbinCached(), casbinRBAC(), cedarRules("cedar-go", "", noContext()), cedarGroups(),
			},
			shapes:  both,
			columns: []column{allowed, denied},
		},
		{
			title:   "A decision by another rule each time, which is not in the processor's caches",
			engines: []engine{floor(), countersign()},
			shapes:  both,
			columns: []column{{name: "allowed", questions: inTurn, allowed: true}},
		},
		{
			title:   "A decision, with a condition over the request at each rule",
			engines: []engine{countersignConditional(pageSize), cedarConditional(pageSize)},
			shapes:  []shape{heaped},
			columns: []column{allowed, denied},
		},
		{
			title:   "The whole interceptor",
			engines: []engine{guard(inCall), grpcAuthz(inCall)},
			shapes:  both,
			columns: []column{allowed, denied},
		},
	}
}
