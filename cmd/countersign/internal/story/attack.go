package story

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

const postTransfer = "bank.ledger.v1.LedgerService/PostTransfer"

// compromisedRisk: risk has a good identity and the ledger's address. It has no permission.
func (p *player) compromisedRisk(ctx context.Context) (err error) {
	risk, err := p.act(ctx, "risk", "ledger")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, risk.Close()) }()
	p.note("bin/actors/risk is attested as %s", risk.SPIFFEID())
	refusal, err := p.steal(risk.Call)
	if err != nil {
		return err
	}
	p.call("risk", "ledger", postTransfer, denied)
	expect(p, "the ledger answers PERMISSION_DENIED", codes.PermissionDenied, refusal.Status.Code())
	id, ok := dial.DecisionID(refusal.Status)
	p.check(ok, fmt.Sprintf("with nothing but %q and the decision's ID: %s", refusal.Status.Message(), id), refusal.Error())
	if !ok {
		return nil
	}
	if err := p.reason(ctx, id); err != nil {
		return err
	}
	return p.balances(" still")
}

// steal tries to move all that Alice has to Bob, past payments, and returns how it was refused.
func (p *player) steal(call func(method, traceParent string, request, response proto.Message) error) (*dial.StatusError, error) {
	err := call(postTransfer, "", &ledgerv1.PostTransferRequest{
		TransferId: "theft-" + p.run, Description: "nothing to see here",
		Postings: []*ledgerv1.Posting{
			{AccountId: p.alice.account, Amount: euros(p.sent - p.cash)},
			{AccountId: p.bob.account, Amount: euros(p.cash - p.sent)},
		},
	}, &ledgerv1.PostTransferResponse{})
	if refusal, ok := errors.AsType[*dial.StatusError](err); ok {
		return refusal, nil
	}
	if err != nil {
		return nil, err
	}
	return nil, errors.New("the ledger let risk post a transfer")
}

// reason shows what audit knows of a denial and the caller does not.
func (p *player) reason(ctx context.Context, id string) error {
	var found []*auditv1.Decision
	err := p.await(ctx, func() (done bool, err error) {
		found, err = p.decisions(ctx, &auditv1.DecisionFilter{DecisionId: id})
		return len(found) > 0, err
	})
	if err != nil {
		return err
	}
	if len(found) != 1 {
		p.check(false, "audit has the decision once", fmt.Sprintf("it has it %d times", len(found)))
		return nil
	}
	d := found[0]
	same := d.GetVerdict() == auditv1.Verdict_VERDICT_DENIED && d.GetReason() != "" &&
		hopOf(d) == hop{"risk", "ledger", "/" + postTransfer}
	p.check(same, "audit has the decision, with who was denied what", fmt.Sprint(d))
	p.out.Printf("     %s %s\n", p.out.Say(console.Faint, "reason:"), p.out.Say(console.Wary, d.GetReason()))
	p.note("policy %s, caller's SVID %s", d.GetPolicyVersion(), d.GetPeerSerial())
	return nil
}
