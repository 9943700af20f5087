package rpc

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
)

func postings(all []*ledgerv1.Posting) []ledger.Posting {
	out := make([]ledger.Posting, len(all))
	for i, p := range all {
		out[i] = ledger.Posting{Account: p.GetAccountId(), Amount: fromMoney(p.GetAmount())}
	}
	return out
}

func entry(e ledger.Entry) *ledgerv1.Entry {
	return &ledgerv1.Entry{
		Sequence:     e.Sequence,
		TransferId:   e.TransferID,
		AccountId:    e.Account,
		Amount:       money(e.Amount),
		BalanceAfter: money(e.BalanceAfter),
		Description:  e.Description,
		PostTime:     timestamppb.New(e.PostTime),
	}
}

func hold(h ledger.Hold) *ledgerv1.Hold {
	out := &ledgerv1.Hold{
		HoldId:     h.ID,
		AccountId:  h.Account,
		Amount:     money(h.Amount),
		State:      holdState(h.State),
		TransferId: h.TransferID,
		CreateTime: timestamppb.New(h.CreateTime),
	}
	if !h.EndTime.IsZero() {
		out.EndTime = timestamppb.New(h.EndTime)
	}
	return out
}

func holdState(s ledger.HoldState) ledgerv1.HoldState {
	switch s {
	case ledger.HoldActive:
		return ledgerv1.HoldState_HOLD_STATE_ACTIVE
	case ledger.HoldCaptured:
		return ledgerv1.HoldState_HOLD_STATE_CAPTURED
	case ledger.HoldReleased:
		return ledgerv1.HoldState_HOLD_STATE_RELEASED
	default:
		return ledgerv1.HoldState_HOLD_STATE_UNSPECIFIED
	}
}

func fromMoney(m *moneyv1.Money) ledger.Money {
	return ledger.Money{Currency: m.GetCurrencyCode(), Minor: m.GetMinorUnits()}
}

func money(m ledger.Money) *moneyv1.Money {
	return &moneyv1.Money{CurrencyCode: m.Currency, MinorUnits: m.Minor}
}

func moneys(ms []ledger.Money) []*moneyv1.Money {
	out := make([]*moneyv1.Money, len(ms))
	for i, m := range ms {
		out[i] = money(m)
	}
	return out
}
