package payment

import "errors"

// The ways in which payments says no.
var (
	ErrNotFound      = errors.New("no such payment")
	ErrRequestReused = errors.New("the request_id was used for other content; choose a new one")
	// ErrNotInReview means that there is nothing to decide on, that it is no longer what the person has seen, or that the other decision was
	// taken on it.
	ErrNotInReview = errors.New("the payment is not in review at this version; look at it again")
	// ErrOutcomeUnknown means that it is not known whether something was stored.
	ErrOutcomeUnknown = errors.New("the outcome is not yet known; send the same request again")
	// ErrAway means that nothing was stored, because somebody who has to be asked first gave no answer.
	ErrAway = errors.New("a service that has to be asked first cannot be reached; send the same request again")
)

// ErrNotAsked means that the ledger was not asked, for want of a token for it at the moment, and so knows nothing of it.
var ErrNotAsked = errors.New("there is no transaction token at the moment")

// The ledger's definite answers: they stay true however often it is asked.
var (
	// ErrInsufficientFunds is its refusal for want of money.
	ErrInsufficientFunds = errors.New("insufficient funds")
	// ErrBalanceOutOfRange is its refusal of a payment after which a balance would be larger than the books can hold.
	ErrBalanceOutOfRange = errors.New("balance out of range")
	// ErrHoldReleased means that what was set aside is available again, so that nothing was posted out of it and nothing will be.
	ErrHoldReleased = errors.New("the hold was released")
	// ErrHoldCaptured means that a transfer has taken what was set aside.
	ErrHoldCaptured = errors.New("the hold was captured")
	// ErrNoHold means that nothing was ever set aside under the payment's ID.
	ErrNoHold = errors.New("no such hold")
	// ErrNoMandate means that no customer's wish for the payment can be shown to the ledger, now or later: it was not asked.
	ErrNoMandate = errors.New("nothing proves that the customer asked for the payment")
	// ErrLedgerRejected means that the ledger has done nothing and never will: what it was sent is wrong in itself, or something
	// else is in the books under the payment's ID. Trying again changes nothing.
	ErrLedgerRejected = errors.New("the ledger rejects the payment")
)
