// Package scope names what a customer may let a device do: the scopes of access tokens, and of the transaction tokens that are made of them.
package scope

import mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"

// The scopes, as login knows them.
const (
	Read     = "accounts.read"
	Open     = "accounts.open"
	Close    = "accounts.close"
	Transfer = "transfer"
)

// Of returns the scope that a method needs. A method without one is served to nobody.
func Of(fullMethod string) (string, bool) {
	switch fullMethod {
	case mobilev1.MobileBankService_ListAccounts_FullMethodName,
		mobilev1.MobileBankService_GetStatement_FullMethodName,
		mobilev1.MobileBankService_WatchActivity_FullMethodName:
		return Read, true
	case mobilev1.MobileBankService_OpenAccount_FullMethodName:
		return Open, true
	case mobilev1.MobileBankService_CloseAccount_FullMethodName:
		return Close, true
	case mobilev1.MobileBankService_Transfer_FullMethodName:
		return Transfer, true
	default:
		return "", false
	}
}
