// Package story plays a day of the bank against a running mesh and checks how each step ends: what must be let in, what must be
// refused and where, and that none of it stops while identities rotate.
package story

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/actor"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/customer"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/site"
	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// ErrDiffers means that something went another way than it must.
var ErrDiffers = errors.New("the story went another way than it must")

// Settings are what a story needs to know.
type Settings struct {
	// Mesh is the mesh that the story is played on.
	Mesh site.Site
	// Resolver finds the servers behind a service's name; nil is the system's.
	Resolver site.Resolver
	// WorkloadAPI is where this process gets its identity.
	WorkloadAPI string
	Actors      Actors
	// RotationWait bounds how long the story waits for SVIDs to rotate.
	RotationWait time.Duration
}

// Actors has others than this process call a service of the mesh: a process that is started for it, or one in another container.
type Actors interface {
	Act(ctx context.Context, name string, to ...dial.Target) (*actor.Actor, error)
}

// Play plays the story. It returns ErrDiffers when any outcome was another than it must be, and what went wrong when the story
// could not go on.
func Play(ctx context.Context, s Settings, out *console.Console) (err error) {
	p, err := open(ctx, s, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	out.Printf("%s\n", out.Say(console.Faint, fmt.Sprintf("The bank %s. This process is %s, by attestation; it holds no key in a file.",
		s.Mesh.TrustDomain, p.operator.ID())))
	for i, chapter := range p.chapters() {
		out.Printf("\n%s  %s\n", out.Say(console.Accent, fmt.Sprint(i+1)), out.Say(console.Strong, chapter.title))
		if err := chapter.play(ctx); err != nil {
			return fmt.Errorf("%s: %w", chapter.title, dial.Explain(err))
		}
	}
	if p.differences > 0 {
		return fmt.Errorf("%w: %d of %d checks failed", ErrDiffers, p.differences, p.checks)
	}
	out.Printf("\n%s\n", out.Say(console.Good, fmt.Sprintf("All %d checks hold.", p.checks)))
	return nil
}

type chapter struct {
	title string
	play  func(context.Context) error
}

func (p *player) chapters() []chapter {
	return []chapter{
		{"Alice and Bob become customers, and enrol their phones", p.customers},
		{"They open accounts in the app", p.openAccounts},
		{"Alice pays cash in at the counter", p.deposit},
		{"Alice pays Bob, and each hop is decided by who calls, and for whom", p.payBob},
		{"The books balance", p.books},
		{"For a large payment the bank wants to be surer that it is Alice", p.stepUp},
		{"Risk refuses a payment that is too large", p.overlarge},
		{"Risk wants a person to look at a payment, and the operator approves it", p.review},
		{"Bob's account is frozen", p.frozen},
		{"Risk is away, and a payment waits for it", p.riskAway},
		{"A risk service that was broken into tries to move money itself", p.compromisedRisk},
		{"Alice's token is stolen, and worth nothing without her phone", p.stolenToken},
		{"A transaction token is captured, and tried for another payment", p.capturedToken},
		{"Bob's old phone is stolen, and revoked while it is connected", p.stolenPhone},
		{"Callers without an identity of this mesh do not get past the handshake", p.strangers},
		{"Payments go on while identities rotate", p.rotation},
	}
}

// player is the story while it is played. Its customers are new each time, so that it can be played again.
type player struct {
	settings   Settings
	out        *console.Console
	operator   *dial.Workload
	bank       customer.Bank
	run        string
	alice, bob person
	// mallory is a customer too, who has come by what is not his.
	mallory person
	// cash is what Alice has paid in, and sent what she has sent Bob, in cents.
	cash, sent          int64
	checks, differences int

	accounts, payments, ledger, audit, login *grpc.ClientConn
}

func open(ctx context.Context, s Settings, out *console.Console) (*player, error) {
	bank, err := customer.At(s.Mesh.Edge)
	if err != nil {
		return nil, err
	}
	operator, err := dial.Open(ctx, s.WorkloadAPI, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	run := make([]byte, 4)
	_, _ = rand.Read(run) // never fails
	p := &player{settings: s, out: out, operator: operator, bank: bank, run: hex.EncodeToString(run)}
	p.alice, p.bob = person{name: "Alice", id: "alice-" + p.run}, person{name: "Bob", id: "bob-" + p.run}
	p.mallory = person{name: "Mallory", id: "mallory-" + p.run}
	for name, conn := range map[string]**grpc.ClientConn{
		"accounts": &p.accounts, "payments": &p.payments, "ledger": &p.ledger, "audit": &p.audit, "login": &p.login,
	} {
		target, err := p.target(name)
		if err == nil {
			*conn, err = operator.Dial(target)
		}
		if err != nil {
			return nil, errors.Join(err, p.close())
		}
	}
	return p, nil
}

func (p *player) close() error {
	errs := []error{p.alice.phone.close(), p.bob.phone.close(), p.mallory.phone.close()}
	for _, conn := range []*grpc.ClientConn{p.accounts, p.payments, p.ledger, p.audit, p.login} {
		if conn != nil {
			errs = append(errs, conn.Close())
		}
	}
	return errors.Join(append(errs, p.operator.Close())...)
}

// act has an actor, which must have the identity of the workload as, call the services callees.
func (p *player) act(ctx context.Context, name, as string, callees ...string) (*actor.Actor, error) {
	var targets []dial.Target
	for _, callee := range callees {
		target, err := p.target(callee)
		if err != nil {
			return nil, err
		}
		targets = append(targets, target)
	}
	a, err := p.settings.Actors.Act(ctx, name, targets...)
	if err != nil {
		return nil, fmt.Errorf("act as %s: %w", name, err)
	}
	if want := p.id(as); a.SPIFFEID() != want {
		return nil, errors.Join(fmt.Errorf("the actor %s was attested as %s, must be %s", name, a.SPIFFEID(), want), a.Close())
	}
	return a, nil
}

// target is where a service of the mesh is and who it must be.
func (p *player) target(name string) (dial.Target, error) {
	service, err := p.settings.Mesh.Find(name)
	return service.Target, err
}

// id is the SPIFFE ID of a workload of the mesh.
func (p *player) id(name string) string {
	return p.settings.Mesh.TrustDomain.IDString() + "/" + name
}

func (p *player) accountClient() accountsv1.AccountServiceClient {
	return accountsv1.NewAccountServiceClient(p.accounts)
}

func (p *player) ledgerClient() ledgerv1.LedgerServiceClient {
	return ledgerv1.NewLedgerServiceClient(p.ledger)
}

func (p *player) paymentClient() paymentsv1.PaymentServiceClient {
	return paymentsv1.NewPaymentServiceClient(p.payments)
}

func (p *player) auditClient() auditv1.AuditServiceClient {
	return auditv1.NewAuditServiceClient(p.audit)
}
