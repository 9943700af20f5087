package story

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
)

const (
	// revocationPromise is how long after its revocation a device is let in at most.
	revocationPromise = time.Second
	// thiefPatience is how long the thief goes on trying, thiefPause how fast.
	thiefPatience = 5 * time.Second
	thiefPause    = 20 * time.Millisecond
)

// stolenPhone: a second phone of Bob's has a good certificate and is logged in. The operator revokes it; Bob's other phone stays as it is.
func (p *player) stolenPhone(ctx context.Context) (err error) {
	stolen, err := p.enrol(ctx, &p.bob, "old phone")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stolen.close()) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // the watch, should the story end here
	if _, err := p.balance(ctx, person{name: p.bob.name, account: p.bob.account, phone: stolen}); err != nil {
		return err
	}
	p.edgeCall("thief", "ListAccounts", allowed)
	watching, err := stolen.watch(ctx, p.bob.account)
	if err != nil {
		return err
	}
	p.note("the thief watches Bob's account")
	revoked := time.Now()
	r, err := loginv1.NewCustomerServiceClient(p.login).RevokeDevice(ctx, &loginv1.RevokeDeviceRequest{DeviceId: stolen.device.ID()})
	if err != nil {
		return err
	}
	p.call("operator", "login", "bank.login.v1.CustomerService/RevokeDevice")
	p.note("%s is revoked, and with it its certificate %s", r.GetDevice().GetDeviceId(), tail(r.GetDevice().GetCertificateSerial()))
	last, refusal, err := callUntilRefused(ctx, func() error {
		_, err := stolen.bank().ListAccounts(ctx, &mobilev1.ListAccountsRequest{})
		return err
	})
	if err != nil {
		return err
	}
	p.check(refusal != nil, "the thief is refused", fmt.Sprintf("after %v it still is let in", thiefPatience))
	if refusal == nil {
		return nil
	}
	p.edgeCall("thief", "ListAccounts", denied)
	p.note("%s: %s", dial.CodeName(refusal.Status.Code()), refusal.Status.Message())
	p.within(last, revoked, "its last call was let in")
	p.cut(ctx, watching, revoked)
	p.note("Bob's other phone has another certificate, and is served as before")
	return p.balances(ctx, " still")
}

// ended is how a watch ended.
type ended struct {
	at  time.Time
	err error
}

// watch follows what happens on an account, once the first of it has come, until it ends.
func (f *phone) watch(ctx context.Context, account string) (<-chan ended, error) {
	stream, err := f.bank().WatchActivity(ctx, &mobilev1.WatchActivityRequest{AccountId: account})
	if err != nil {
		return nil, err
	}
	if _, err := stream.Recv(); err != nil {
		return nil, err
	}
	result := make(chan ended, 1)
	go func() {
		for {
			if _, err := stream.Recv(); err != nil {
				result <- ended{time.Now(), err}
				return
			}
		}
	}()
	return result, nil
}

// cut checks that what the thief was watching was ended, in time.
func (p *player) cut(ctx context.Context, watching <-chan ended, revoked time.Time) {
	timer := time.NewTimer(thiefPatience)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
		p.check(false, "what it was watching is cut", fmt.Sprintf("after %v it still watches", thiefPatience))
	case end := <-watching:
		code := status.Code(end.err)
		p.check(code == codes.Unauthenticated || code == codes.Unavailable, "what it was watching is cut", fmt.Sprint(end.err))
		p.within(end.at, revoked, "it saw nothing more")
	}
}

// within checks that something was over in time. What was over before is said to have taken no time.
func (p *player) within(at, revoked time.Time, what string) {
	after := max(at.Sub(revoked), 0)
	p.check(after <= revocationPromise, fmt.Sprintf("%s within %v of the revocation", what, revocationPromise), after.String())
	p.note("after %d ms", after.Milliseconds())
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
