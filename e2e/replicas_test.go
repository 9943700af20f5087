package e2e

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
)

// TestTwoReplicas runs payments twice on one database, behind one name that the gateway finds both under, and kills one of them at random while 16
// clients pay. Those who are told that the bank is not available ask again, and are answered by the other one. All payments end, each once.
func TestTwoReplicas(t *testing.T) {
	onEach(t, func(t *testing.T, mesh *bank.Apart, _ *databasetest.Server) {
		replicas := []string{"payments", mesh.Replicate(t, "payments")}
		mesh.StartAll(t)
		mesh.Start(t, replicas[1])
		operator := mesh.Identity(t, "operator")
		crowd := openCrowd(t, mesh, operator, 6, 2)
		paying, stop := context.WithCancel(t.Context())
		defer stop()
		wait := crowd.pay(paying, t, 16)
		random := rand.New(rand.NewPCG(crowd.seed, 1<<32))
		for range rounds(5, 50) {
			victim := replicas[random.IntN(2)]
			crowd.waitForSome(t, 16)
			pause(t, time.Duration(random.IntN(300))*time.Millisecond)
			mesh.Kill(t, victim)
			crowd.waitForSome(t, 16) // by the one that is left
			mesh.Start(t, victim)
			bank.Eventually(t, 20*time.Second, func() string {
				if mesh.Served(t, victim, "bank.payments.v1.PaymentService", "CreatePayment") == 0 {
					return victim + " is back, and nobody asks it"
				}
				return ""
			})
		}
		stop()
		wait()
		newAuditor(t, mesh, operator).checkCrowd(t, crowd)
		verifyOffline(t, mesh)
	})
}
