// Package machine carries payments from state to state.
//
// A payment that is stored is never given up: a caller who leaves merely stops waiting for it, and one that could not be
// finished, because a neighbour was away or the process ended, is taken up again by Work. A state is stored before what follows from it is
// sent, and sending it twice is safe, because risk and the ledger know a payment by its ID and answer a repeated question as they did
// first. So it does not matter how many processes carry the same payment at once: the store takes each step of each version once, and
// who comes second goes on from there.
//
// What is asked in each state, and what follows from each answer. Dots stand for "stays as it is, and is asked again, at growing
// intervals"; an arrow to the same place says that it is stored first.
//
//	state               asked            answer                              next state
//	created (transfer)  risk: Assess     allow                               assessed
//	                                     refuse                              refused
//	                                     hold                                in review
//	                                     none, or no verdict known here      in review (RISK_UNAVAILABLE)
//	in review           risk: Assess,    allow                               assessed
//	                    only while       refuse                              refused
//	                    the reason is    hold                                in review, with risk's reasons
//	                    RISK_UNAVAILABLE none, or no verdict known here      …
//	in review           a person         approve                             assessed
//	                                     refuse                              refused; releasing if there was a hold, or may be (LEDGER_REJECTED)
//	assessed (transfer) ledger: Reserve  set aside, or its own capture       held
//	                                     INSUFFICIENT_FUNDS                  refused; see below
//	                                     released                            refused (LEDGER_REJECTED)
//	                                     rejected, or without a mandate      in review (LEDGER_REJECTED)
//	                                     none, or not asked                  …; nothing has moved
//	held                accounts         frozen, closed or gone              releasing (ACCOUNT_FROZEN, ACCOUNT_CLOSED)
//	                                     none                                …
//	                    then             it is done                          posted
//	                    ledger: Capture  none                                unknown
//	                                     not asked                           …
//	                                     INSUFFICIENT_FUNDS                  releasing
//	                                     BALANCE_OUT_OF_RANGE                releasing
//	                                     HOLD_RELEASED                       refused (LEDGER_REJECTED)
//	                                     HOLD_CAPTURED, no hold, rejected,   in review (LEDGER_REJECTED)
//	                                     or without a mandate
//	unknown             accounts, then   none, not asked, without a mandate  …
//	                    ledger: Capture  others                              as in held; if it is posted, releasing finds it so
//	releasing           ledger: Release  released, no hold                   refused, for the reasons that it has
//	                                     HOLD_CAPTURED                       by its own capture, as Capture tells: posted; else in review
//	                                     none, or without a mandate          …
//	created, assessed   ledger: Post     it is done                          posted
//	(deposit)                            INSUFFICIENT_FUNDS                  refused
//	                                     BALANCE_OUT_OF_RANGE                refused
//	                                     rejected                            in review (LEDGER_REJECTED)
//	                                     none                                unknown
//	unknown, no hold    ledger: Post     none, or without a mandate          …
//	                                     others                              as in created
//	posted, refused                                                          final
//
// The ledger moves a customer's money only on a transaction token, which says that the customer asked for this very payment and lives for minutes. The one
// that came with the order is used while it lives, and renewed for who goes on later. While nobody can be asked for that, the ledger is not asked. A
// payment without a mandate, which an older version of the service has left behind or which the authorization server does not know, has none to renew: a person
// has to look, unless it may be in the books already, where what a person decides could be wrong; it then stays as it is, and the log says so each time. That the ledger denies a call is no answer about the books, since its policy, its keys and its clock decide on that: it is asked again, with a new token.
//
// No hold but unknown are deposits, and transfers that an older version of the service has left behind.
//
// HOLD_RELEASED at a capture, HOLD_CAPTURED at a release and their like come from another process on the same payment, or from a database
// that was put back to an earlier day: the ledger's word is the last one.
//
// A refusal for want of money is no end of the story. Of two processes that ask for the same hold the first may be refused and the second,
// after money has come in, not; if the first one's answer is stored first, there is a hold for a payment that is refused. So the store
// notes such refusals, and Work releases the hold, which mostly is not there, when no request can be under way any more. The second process,
// if it lives to see that the payment is refused, releases its hold at once.
//
// What is posted without a hold lacks that: of two processes that ask to post the same deposit the first may be refused for want of room in a
// balance and the second, after money has gone out, not. It takes a balance at the edge of what 64 bits hold.
package machine
