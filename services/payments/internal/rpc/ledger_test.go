package rpc_test

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

// books is a ledger that keeps its word about idempotency. Its rpcs ask the hook "Before" and their name first, and that of their name
// when they have done their work: its error is an answer that got lost.
type books struct {
	holds  map[string]*ledgerv1.Hold
	posted map[string]proto.Message // by transfer; the request that posted it
}

// ReserveFunds implements LedgerService.
func (a *around) ReserveFunds(ctx context.Context, req *ledgerv1.ReserveFundsRequest) (*ledgerv1.ReserveFundsResponse, error) {
	if err := a.enter(ctx, "BeforeReserveFunds"); err != nil {
		return nil, err
	}
	a.mu.Lock()
	hold, ok := a.books.holds[req.GetHoldId()]
	if !ok {
		hold = &ledgerv1.Hold{
			HoldId: req.GetHoldId(), AccountId: req.GetAccountId(), Amount: req.GetAmount(), State: ledgerv1.HoldState_HOLD_STATE_ACTIVE,
		}
		a.books.holds[req.GetHoldId()] = hold
	}
	response := &ledgerv1.ReserveFundsResponse{Hold: proto.CloneOf(hold)}
	a.mu.Unlock()
	return response, a.enter(ctx, "ReserveFunds")
}

// CaptureHold implements LedgerService.
func (a *around) CaptureHold(ctx context.Context, req *ledgerv1.CaptureHoldRequest) (*ledgerv1.CaptureHoldResponse, error) {
	if err := a.enter(ctx, "BeforePost"); err != nil {
		return nil, err
	}
	if err := a.capture(req); err != nil {
		return nil, err
	}
	return &ledgerv1.CaptureHoldResponse{TransferId: req.GetTransferId()}, a.enter(ctx, "Post")
}

func (a *around) capture(req *ledgerv1.CaptureHoldRequest) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	hold := a.books.holds[req.GetHoldId()]
	_, posted := a.books.posted[req.GetTransferId()]
	switch {
	case posted:
		return a.book(req.GetTransferId(), req)
	case hold == nil:
		return status.Error(codes.NotFound, "no such hold")
	case hold.GetState() == ledgerv1.HoldState_HOLD_STATE_RELEASED:
		return precondition("HOLD_RELEASED")
	case hold.GetState() == ledgerv1.HoldState_HOLD_STATE_CAPTURED:
		return precondition("HOLD_CAPTURED")
	}
	hold.State, hold.TransferId = ledgerv1.HoldState_HOLD_STATE_CAPTURED, req.GetTransferId()
	return a.book(req.GetTransferId(), req)
}

// ReleaseHold implements LedgerService.
func (a *around) ReleaseHold(ctx context.Context, req *ledgerv1.ReleaseHoldRequest) (*ledgerv1.ReleaseHoldResponse, error) {
	if err := a.enter(ctx, "BeforeReleaseHold"); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	hold := a.books.holds[req.GetHoldId()]
	switch {
	case hold == nil:
		return nil, status.Error(codes.NotFound, "no such hold")
	case hold.GetState() == ledgerv1.HoldState_HOLD_STATE_CAPTURED:
		return nil, precondition("HOLD_CAPTURED")
	}
	hold.State = ledgerv1.HoldState_HOLD_STATE_RELEASED
	return &ledgerv1.ReleaseHoldResponse{Hold: proto.CloneOf(hold)}, nil
}

// PostTransfer implements LedgerService.
func (a *around) PostTransfer(ctx context.Context, req *ledgerv1.PostTransferRequest) (*ledgerv1.PostTransferResponse, error) {
	if err := a.enter(ctx, "BeforePost"); err != nil {
		return nil, err
	}
	a.mu.Lock()
	err := a.book(req.GetTransferId(), req)
	a.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return &ledgerv1.PostTransferResponse{TransferId: req.GetTransferId()}, a.enter(ctx, "Post")
}

// book posts a transfer once; the caller holds the lock.
func (a *around) book(id string, req proto.Message) error {
	if earlier, ok := a.books.posted[id]; ok && !proto.Equal(earlier, req) {
		return status.Error(codes.AlreadyExists, "other content")
	}
	a.books.posted[id] = req
	return nil
}

func (a *around) postings() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.books.posted)
}

// active returns how many holds are active.
func (a *around) active() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, hold := range a.books.holds {
		if hold.GetState() == ledgerv1.HoldState_HOLD_STATE_ACTIVE {
			n++
		}
	}
	return n
}
