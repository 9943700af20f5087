package story

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/admin"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policyfile"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

const (
	// revocationPromise is how long after its revocation a caller is let in at most.
	revocationPromise = time.Second
	// thiefPatience is how long the thief goes on trying, thiefPause how fast.
	thiefPatience = 5 * time.Second
	thiefPause    = 20 * time.Millisecond
	// fileBound is how long the policy file may be in the hands of others.
	fileBound = 5 * time.Second
)

// stolenPhone: a second copy of the app has a good certificate and all permissions of the app, until the operator revokes that one
// certificate. The policy file is afterwards as it was before.
func (p *player) stolenPhone(ctx context.Context) (err error) {
	phone, err := p.act(ctx, "mobile", "gateway")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, phone.Close()) }()
	target, err := p.target("gateway")
	if err != nil {
		return err
	}
	gateway, err := p.operator.Dial(target)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, gateway.Close()) }()
	err = p.revokeThief(ctx, gateway, phone.Serial(), func() error {
		return phone.Call(mobileService+"ListAccounts", "", &mobilev1.ListAccountsRequest{CustomerId: p.alice.id}, &mobilev1.ListAccountsResponse{})
	})
	if err != nil {
		return err
	}
	p.note("Alice's own phone has another certificate, and is served as before")
	return p.balances(" still")
}

// revokeThief revokes the certificate that call is made with, and checks that it ends there.
func (p *player) revokeThief(ctx context.Context, gateway grpc.ClientConnInterface, serial string, call func() error) (err error) {
	if err := call(); err != nil {
		return err
	}
	p.call("mobile", "gateway", mobileService+"ListAccounts", allowed)
	listed, err := connected(ctx, gateway, serial)
	if err != nil {
		return err
	}
	p.check(listed, "the gateway lists the thief's connection, by the serial number "+tail(serial), "it does not")

	bounded, cancel := context.WithTimeout(ctx, fileBound)
	defer cancel()
	change, err := policyfile.Revoke(bounded, p.settings.Mesh.Policy, &policyv1.Revocation{
		Subject: &policyv1.Revocation_Serial{Serial: serial}, Why: "stolen phone, in countersign demo",
	})
	if err != nil {
		return err
	}
	// Also when the story ends here, by Ctrl-C too.
	defer func() { err = errors.Join(err, p.takeBack(context.WithoutCancel(ctx), change)) }()
	p.note("the operator adds the serial number to the policy, %s", change.Entry)

	last, refusal, err := callUntilRefused(ctx, call)
	if err != nil {
		return err
	}
	p.check(refusal != nil, "the thief is refused", fmt.Sprintf("after %v it still is let in", thiefPatience))
	if refusal == nil {
		return nil
	}
	p.call("mobile", "gateway", mobileService+"ListAccounts", denied)
	p.note("%s: %s", dial.CodeName(refusal.Status.Code()), refusal.Status.Message())
	after := last.Sub(change.Time)
	p.check(after <= revocationPromise, fmt.Sprintf("its last call was let in within %v of the revocation", revocationPromise), after.String())
	return p.cutOff(ctx, gateway, serial, change.Time)
}

// takeBack takes the revocation out of the policy file again.
func (p *player) takeBack(ctx context.Context, change policyfile.Change) error {
	ctx, cancel := context.WithTimeout(ctx, fileBound)
	defer cancel()
	if err := policyfile.Undo(ctx, p.settings.Mesh.Policy, change); err != nil {
		return fmt.Errorf("take the revocation out of the policy again: %w", err)
	}
	return nil
}

// callUntilRefused returns when the last call that was let in ended, and how the next was refused; nil when none was.
func callUntilRefused(ctx context.Context, call func() error) (last time.Time, refusal *dial.StatusError, err error) {
	ticker := time.NewTicker(thiefPause)
	defer ticker.Stop()
	for deadline := time.Now().Add(thiefPatience); time.Now().Before(deadline); {
		err := dial.Explain(call())
		if refusal, ok := errors.AsType[*dial.StatusError](err); ok {
			return last, refusal, nil
		}
		if err != nil {
			return last, nil, err
		}
		last = time.Now()
		select {
		case <-ctx.Done():
			return last, nil, context.Cause(ctx)
		case <-ticker.C:
		}
	}
	return last, nil, nil
}

// cutOff checks that the gateway has cut the connection, for that reason.
func (p *player) cutOff(ctx context.Context, gateway grpc.ClientConnInterface, serial string, since time.Time) error {
	var cuts []*adminv1.Cut
	err := p.await(ctx, func() (bool, error) {
		r, err := adminv1.NewAdminServiceClient(gateway).ListCuts(ctx, &adminv1.ListCutsRequest{Since: timestamppb.New(since)})
		cuts = slices.DeleteFunc(r.GetCuts(), func(c *adminv1.Cut) bool {
			return c.GetReason() != adminv1.CutReason_CUT_REASON_REVOKED || c.GetConnection().GetPeerSerial() != serial
		})
		return len(cuts) > 0, err
	})
	if err != nil {
		return err
	}
	p.check(len(cuts) == 1, "the gateway has cut its connection", fmt.Sprintf("it has cut %d", len(cuts)))
	for _, cut := range cuts {
		p.note("%d ms after the revocation: %s", cut.GetCutTime().AsTime().Sub(since).Milliseconds(), cut.GetDetail())
	}
	listed, err := connected(ctx, gateway, serial)
	p.check(err == nil && !listed, "and lists it no more", fmt.Sprint(err))
	return err
}

// connected reports whether a server has a live connection to who has this serial number.
func connected(ctx context.Context, server grpc.ClientConnInterface, serial string) (bool, error) {
	list, err := admin.Connections(ctx, server)
	return slices.ContainsFunc(list, func(c *adminv1.Connection) bool { return c.GetPeerSerial() == serial }), err
}
