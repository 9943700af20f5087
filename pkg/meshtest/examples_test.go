package meshtest_test

import "testing"

// test runs the body of an example, which in a package of one's own is a test function. As an example, of which the testing package knows
// no more than what it prints, it does nothing; TestExamples runs it.
var test = func(func(t *testing.T)) {}

func TestExamples(t *testing.T) {
	for name, example := range map[string]func(){
		"a service is called":                        Example,
		"a rotation fails no call":                   ExampleMesh_Rotate,
		"a peer is revoked":                          ExampleMesh_SetPolicy,
		"the Workload API is away until expiry":      ExampleMesh_API,
		"an identity is withdrawn":                   ExampleMesh_API_withdrawn,
		"another trust domain, before it federates":  ExampleMesh_Federate,
		"an impostor, of the right name":             ExampleCA,
		"several identities, of which a hint is one": ExampleWorkloadAPI,
	} {
		t.Run(name, func(t *testing.T) {
			ran := false
			test = func(body func(*testing.T)) { ran = true; body(t) }
			defer func() { test = func(func(*testing.T)) {} }()
			example()
			if !ran {
				t.Error("the example tests nothing")
			}
		})
	}
}
