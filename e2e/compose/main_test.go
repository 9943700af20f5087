// Package compose holds black-box tests of the mesh in containers: deploy/Dockerfile and deploy/compose/compose.yaml as they are, run by
// Docker Compose, and looked at with the Docker CLI, grpcurl, crypto/tls and grpc-go as they come.
//
// They need COUNTERSIGN_COMPOSE, the command of Compose v2, and the images built: `make compose-test` sees to both.
package compose

import (
	"os"
	"testing"
)

// TestContainers brings the mesh up once and looks at it from all sides. What is later in the list finds what was done before it: the load that
// `docker kill` is tried under has to be in the books at the end.
func TestContainers(t *testing.T) {
	command := os.Getenv("COUNTERSIGN_COMPOSE")
	if command == "" {
		t.Skip("SKIP: COUNTERSIGN_COMPOSE is not set; right would be the command of Docker Compose v2, as `make compose-test` sets it")
	}
	p := newProject(t, command, "compose.yaml")
	p.up(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *project)
	}{
		{"an image is one static binary of at most 40 MiB for a user without a name", testImages},
		{"every container is closed to all that it does not need", testHardening},
		{"the kernel knows of the limits", testKernel},
		{"up again changes nothing and keeps the policy that is in force", testUpAgain},
		{"the demo plays in the operator's container", testDemo},
		{"countersign call works in a container of its own", testCall},
		{"stock grpcurl verifies the gateway at the published port, and is verified", testGrpcurl},
		{"who has a socket is who the socket is for, whatever the image", testSockets},
		{"who is outside of the mesh's networks reaches nothing", testOutside},
		{"who is on the ledger's network without an identity gets no further than the handshake", testNoIdentity},
		{"what happens to containers loses no payment", testFaults},
	} {
		// The first that fails may leave anything behind.
		if !t.Run(test.name, func(t *testing.T) { test.run(t, p) }) {
			return
		}
	}
}
