package rpc

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

func amount(m *moneyv1.Money) payment.Amount {
	return payment.Amount{CurrencyCode: m.GetCurrencyCode(), MinorUnits: m.GetMinorUnits()}
}

func message(p payment.Payment) *paymentsv1.Payment {
	m := &paymentsv1.Payment{
		PaymentId:      p.ID,
		RequestId:      p.RequestID,
		Kind:           kind(p.Kind),
		PayerAccountId: p.PayerAccountID,
		PayeeAccountId: p.PayeeAccountID,
		Amount:         &moneyv1.Money{CurrencyCode: p.Amount.CurrencyCode, MinorUnits: p.Amount.MinorUnits},
		Reference:      p.Reference,
		State:          state(p.State),
		CreateTime:     timestamppb.New(p.CreateTime),
		UpdateTime:     timestamppb.New(p.UpdateTime),
		Version:        p.Version,
	}
	for _, reason := range p.Reasons {
		m.Reasons = append(m.Reasons, &paymentsv1.Reason{Code: reason.Code, Message: reason.Message})
	}
	return m
}

func kind(k payment.Kind) paymentsv1.PaymentKind {
	switch k {
	case payment.Transfer:
		return paymentsv1.PaymentKind_PAYMENT_KIND_TRANSFER
	case payment.CashDeposit:
		return paymentsv1.PaymentKind_PAYMENT_KIND_CASH_DEPOSIT
	default:
		return paymentsv1.PaymentKind_PAYMENT_KIND_UNSPECIFIED
	}
}

func state(s payment.State) paymentsv1.PaymentState {
	switch s {
	case payment.Created:
		return paymentsv1.PaymentState_PAYMENT_STATE_CREATED
	case payment.Assessed:
		return paymentsv1.PaymentState_PAYMENT_STATE_ASSESSED
	case payment.Posted:
		return paymentsv1.PaymentState_PAYMENT_STATE_POSTED
	case payment.Refused:
		return paymentsv1.PaymentState_PAYMENT_STATE_REFUSED
	case payment.Held:
		return paymentsv1.PaymentState_PAYMENT_STATE_HELD
	case payment.InReview:
		return paymentsv1.PaymentState_PAYMENT_STATE_IN_REVIEW
	case payment.Unknown:
		return paymentsv1.PaymentState_PAYMENT_STATE_UNKNOWN
	case payment.Releasing:
		return paymentsv1.PaymentState_PAYMENT_STATE_RELEASING
	default:
		return paymentsv1.PaymentState_PAYMENT_STATE_UNSPECIFIED
	}
}

// decision returns the zero Decision for what is none.
func decision(d paymentsv1.ReviewDecision) payment.Decision {
	switch d {
	case paymentsv1.ReviewDecision_REVIEW_DECISION_APPROVE:
		return payment.Approve
	case paymentsv1.ReviewDecision_REVIEW_DECISION_REFUSE:
		return payment.Reject
	default:
		return 0
	}
}
