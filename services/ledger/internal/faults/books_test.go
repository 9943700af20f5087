package faults_test

import (
	"context"
	"errors"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
)

// books are what is attacked: the store, or one with a fault.
type books interface {
	Post(ctx context.Context, t ledger.Transfer) (ledger.Posted, error)
	Reserve(ctx context.Context, h ledger.Hold) (ledger.Hold, error)
	Release(ctx context.Context, id string) (ledger.Hold, error)
	Balances(ctx context.Context, account string) ([]ledger.Balance, error)
	Check(ctx context.Context) (ledger.TrialBalance, error)
}

// apply sends an operation to the books.
func apply(ctx context.Context, b books, o op) answer {
	switch o.Kind {
	case post:
		p, err := b.Post(ctx, o.transfer())
		return answered(err, answer{Time: micros(p.Time)})
	case reserve:
		h, err := b.Reserve(ctx, o.hold())
		return answered(err, answer{Time: micros(h.CreateTime), State: stateOf(h.State)})
	case release:
		h, err := b.Release(ctx, holdID(o.Group, o.ID))
		return answered(err, answer{Time: micros(h.CreateTime), State: stateOf(h.State)})
	case balance:
		var a answer
		all, err := b.Balances(ctx, account(o.Group, o.Whose))
		for _, one := range all {
			a.Balance, a.Held = one.Minor, one.Held
		}
		return answered(err, a)
	case check:
		sums, err := b.Check(ctx)
		return answered(err, answer{Sums: sums})
	default:
		return answer{Code: failed, Text: "there is no such operation"}
	}
}

// answered adds to an answer what the error of a call says.
func answered(err error, a answer) answer {
	if err == nil {
		a.Code = done
		return a
	}
	return answer{Code: codeOf(err), Text: err.Error()}
}

func codeOf(err error) code {
	switch {
	case errors.Is(err, database.ErrOutcomeUnknown):
		return unknown
	case database.Unavailable(err):
		return refused
	case errors.Is(err, ledger.ErrInvalid):
		return invalid
	case errors.Is(err, ledger.ErrConflict):
		return conflict
	case errors.Is(err, ledger.ErrInsufficientFunds):
		return insufficient
	case errors.Is(err, ledger.ErrNoHold):
		return noHold
	case errors.Is(err, ledger.ErrHoldReleased):
		return holdReleased
	case errors.Is(err, ledger.ErrHoldCaptured):
		return holdCaptured
	default:
		return failed
	}
}

func stateOf(s ledger.HoldState) state {
	return map[ledger.HoldState]state{ledger.HoldActive: active, ledger.HoldCaptured: captured, ledger.HoldReleased: released}[s]
}

// micros is a time as the books keep it; zero for none.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}
