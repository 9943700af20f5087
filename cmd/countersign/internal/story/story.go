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
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/actor"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// ErrDiffers means that something went another way than it must.
var ErrDiffers = errors.New("the story went another way than it must")

// Settings are what a story needs to know.
type Settings struct {
	// Mesh is the mesh that runs.
	Mesh rundir.Record
	// RotationWait bounds how long the story waits for SVIDs to rotate.
	RotationWait time.Duration
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
		{"Alice and Bob open accounts in the app", p.openAccounts},
		{"Alice pays cash in at the counter", p.deposit},
		{"Alice pays Bob, and each hop is decided by who calls", p.payBob},
		{"The books balance", p.books},
		{"Risk refuses a payment that is too large", p.overlarge},
		{"Risk wants a person to look at a payment, and the operator approves it", p.review},
		{"Bob's account is frozen", p.frozen},
		{"Risk is away, and a payment waits for it", p.riskAway},
		{"A risk service that was broken into tries to move money itself", p.compromisedRisk},
		{"A phone is stolen, and its certificate revoked while it is connected", p.stolenPhone},
		{"Callers without an identity of this mesh do not get past the handshake", p.strangers},
		{"Payments go on while identities rotate", p.rotation},
	}
}

// player is the story while it is played. Its customers are new each time, so that it can be played again.
type player struct {
	settings   Settings
	out        *console.Console
	operator   *dial.Workload
	mobile     *actor.Actor
	run        string
	alice, bob customer
	// cash is what Alice has paid in, and sent what she has sent Bob, in cents.
	cash, sent          int64
	checks, differences int

	accounts, payments, ledger, audit *grpc.ClientConn
}

type customer struct{ name, id, account string }

func open(ctx context.Context, s Settings, out *console.Console) (*player, error) {
	operator, err := dial.Open(ctx, s.Mesh.WorkloadAPI, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	run := make([]byte, 4)
	_, _ = rand.Read(run) // never fails
	p := &player{settings: s, out: out, operator: operator, run: hex.EncodeToString(run)}
	p.alice, p.bob = customer{name: "Alice", id: "alice-" + p.run}, customer{name: "Bob", id: "bob-" + p.run}
	for name, conn := range map[string]**grpc.ClientConn{"accounts": &p.accounts, "payments": &p.payments, "ledger": &p.ledger, "audit": &p.audit} {
		target, err := p.target(name)
		if err == nil {
			*conn, err = operator.Dial(target)
		}
		if err != nil {
			return nil, errors.Join(err, p.close())
		}
	}
	if p.mobile, err = p.act(ctx, "mobile", "gateway"); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *player) close() error {
	var errs []error
	if p.mobile != nil {
		errs = append(errs, p.mobile.Close())
	}
	for _, conn := range []*grpc.ClientConn{p.accounts, p.payments, p.ledger, p.audit} {
		if conn != nil {
			errs = append(errs, conn.Close())
		}
	}
	return errors.Join(append(errs, p.operator.Close())...)
}

// act starts the actor that has the identity name, to call the service callee.
func (p *player) act(ctx context.Context, name, callee string) (*actor.Actor, error) {
	target, err := p.target(callee)
	if err != nil {
		return nil, err
	}
	a, err := actor.Start(ctx, filepath.Join(p.settings.Mesh.Bin, "actors", name), p.settings.Mesh.WorkloadAPI, target)
	if err != nil {
		return nil, fmt.Errorf("act as %s: %w", name, err)
	}
	if want := p.id(name); a.SPIFFEID() != want {
		return nil, errors.Join(fmt.Errorf("the actor %s was attested as %s, must be %s", name, a.SPIFFEID(), want), a.Close())
	}
	return a, nil
}

// target is where a service of the mesh is and who it must be.
func (p *player) target(name string) (dial.Target, error) {
	program, ok := p.settings.Mesh.Find(name)
	if !ok {
		return dial.Target{}, fmt.Errorf("the mesh has no service %q", name)
	}
	id, err := spiffeid.FromString(program.SPIFFEID)
	return dial.Target{Address: program.Address, ID: id}, err
}

// id is the SPIFFE ID of a workload of the mesh.
func (p *player) id(name string) string {
	return "spiffe://" + p.settings.Mesh.TrustDomain + "/" + name
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
