package story

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/actor"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

const postTransfer = "bank.ledger.v1.LedgerService/PostTransfer"

// compromisedRisk: risk has a good identity and the ledger's address. It has no permission.
func (p *player) compromisedRisk(ctx context.Context) (err error) {
	risk, err := p.act(ctx, "burglar", "risk", "ledger")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, risk.Close()) }()
	p.note("whoever broke in is attested as %s, as risk itself is", risk.SPIFFEID())
	refusal, err := p.steal(risk.Call)
	if err != nil {
		return err
	}
	if err := p.denied(ctx, refusal, hop{"risk", "ledger", "/" + postTransfer}); err != nil {
		return err
	}
	return p.balances(ctx, " still")
}

// steal tries to move all that Alice has to Bob, past payments, and returns how it was refused.
func (p *player) steal(call func(c actor.Call, request, response proto.Message) error) (*dial.StatusError, error) {
	err := call(actor.Call{Server: p.id("ledger"), Method: postTransfer}, &ledgerv1.PostTransferRequest{
		TransferId: "theft-" + p.run, Description: "nothing to see here",
		Postings: []*ledgerv1.Posting{
			{AccountId: p.alice.account, Amount: euros(p.sent - p.cash)},
			{AccountId: p.bob.account, Amount: euros(p.cash - p.sent)},
		},
	}, &ledgerv1.PostTransferResponse{})
	return refusalOf(err, "the ledger let risk post a transfer")
}

// refusalOf returns how a call was refused, and the error otherwise when it was let in.
func refusalOf(err error, otherwise string) (*dial.StatusError, error) {
	if refusal, ok := errors.AsType[*dial.StatusError](err); ok {
		return refusal, nil
	}
	if err != nil {
		return nil, err
	}
	return nil, errors.New(otherwise)
}

// denied checks that a call was denied by the policy, and shows why.
func (p *player) denied(ctx context.Context, refusal *dial.StatusError, h hop) error {
	_, err := p.denial(ctx, refusal, h)
	return err
}

// denial is denied, and returns what audit has of it; nil when it has nothing.
func (p *player) denial(ctx context.Context, refusal *dial.StatusError, h hop) (*auditv1.Decision, error) {
	p.hop(h, denied, "")
	expect(p, h.callee+" answers PERMISSION_DENIED", codes.PermissionDenied, refusal.Status.Code())
	id, ok := dial.DecisionID(refusal.Status)
	p.check(ok, fmt.Sprintf("with nothing but %q and the decision's ID: %s", refusal.Status.Message(), id), refusal.Error())
	if !ok {
		return nil, nil //nolint:nilnil // the check that failed is counted
	}
	return p.reason(ctx, id, h)
}

// reason shows what audit knows of a denial and the caller does not, and returns it; nil when it has nothing.
func (p *player) reason(ctx context.Context, id string, h hop) (*auditv1.Decision, error) {
	var found []*auditv1.Decision
	err := p.await(ctx, func() (done bool, err error) {
		found, err = p.decisions(ctx, &auditv1.DecisionFilter{DecisionId: id})
		return len(found) > 0, err
	})
	if err != nil {
		return nil, err
	}
	if len(found) != 1 {
		p.check(false, "audit has the decision once", fmt.Sprintf("it has it %d times", len(found)))
		return nil, nil //nolint:nilnil // as above
	}
	d := found[0]
	same := d.GetVerdict() == auditv1.Verdict_VERDICT_DENIED && d.GetReason() != "" &&
		hopOf(d) == h
	p.check(same, "audit has the decision, with who was denied what", fmt.Sprint(d))
	p.out.Printf("     %s %s\n", p.out.Say(console.Faint, "reason:"), p.out.Say(console.Wary, d.GetReason()))
	p.note("policy %s, caller's SVID %s", d.GetPolicyVersion(), d.GetPeerSerial())
	return d, nil
}
