package main

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/customer"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
)

type bankStatementCommand struct {
	Account string `arg:"" optional:"" help:"Of which account; the customer's only one by default."`
	Limit   int32  `default:"20" placeholder:"N" help:"At most this many lines, the newest (${default}); up to 200."`
}

func (c *bankStatementCommand) Run(ctx context.Context, s *session, of *bankCommand) error {
	return of.with(s, func(client mobilev1.MobileBankServiceClient) error {
		account, err := theAccount(ctx, client, c.Account, "after the command")
		if err != nil {
			return err
		}
		r, err := client.GetStatement(ctx, &mobilev1.GetStatementRequest{AccountId: account, PageSize: c.Limit})
		if err != nil {
			return err
		}
		var rows [][]console.Cell
		for _, line := range r.GetLines() {
			rows = append(rows, []console.Cell{
				{Text: stamp(line.GetPostTime().AsTime())},
				{Text: customer.Amount(line.GetAmount()), Tone: console.Strong},
				{Text: customer.Amount(line.GetBalanceAfter())},
				{Text: or(console.Visible(line.GetDescription()))},
			})
		}
		s.out.Table([]string{"time", "amount", "balance", "what for"}, rows)
		return nil
	})
}

type bankWatchCommand struct {
	Account string `arg:"" optional:"" help:"Which account; the customer's only one by default."`
	All     bool   `help:"Begin with the account's first payment; by default with the next one."`
}

// watchPause is how long to wait before a watch that ended is begun again.
const watchPause = time.Second

func (c *bankWatchCommand) Run(ctx context.Context, s *session, of *bankCommand) error {
	return of.with(s, func(client mobilev1.MobileBankServiceClient) error {
		account, err := theAccount(ctx, client, c.Account, "after the command")
		if err != nil {
			return err
		}
		w := &activity{shown: make(map[string]mobilev1.TransferStatus), client: client, account: account, rows: s.out.Rows([]string{"time", "payment", "amount", "status"}, 20, 30, 12)}
		if !c.All {
			w.since = time.Now()
		}
		return w.follow(ctx)
	})
}

// activity is what happens on an account, as it is shown.
type activity struct {
	client  mobilev1.MobileBankServiceClient
	account string
	rows    *console.Rows
	since   time.Time
	cursor  string
	// shown is how each payment was shown last: it may change more often than a customer would see.
	shown map[string]mobilev1.TransferStatus
}

// follow shows what happens until ctx ends. A watch ends with the access token that it was begun with, and when the gateway stops: it goes on after the
// last change that was shown, with another token.
func (a *activity) follow(ctx context.Context) error {
	for {
		began := time.Now()
		err := a.once(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // by Ctrl-C, as it is meant to end
		}
		if !a.resumable(err, time.Since(began)) {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchPause):
		}
	}
}

// resumable reports whether a watch that ended is to be begun again. A token that is refused at once is not one that has expired meanwhile.
func (a *activity) resumable(err error, lived time.Duration) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.ResourceExhausted:
		return true
	case codes.Unauthenticated:
		return customer.Reason(err) == customer.ReasonInvalidToken && lived > watchPause
	default:
		return false
	}
}

func (a *activity) once(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := a.client.WatchActivity(ctx, &mobilev1.WatchActivityRequest{AccountId: a.account, Cursor: a.cursor})
	if err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		a.cursor = r.GetCursor()
		a.show(r.GetTransfer())
	}
}

func (a *activity) show(t *mobilev1.Transfer) {
	when := t.GetUpdateTime().AsTime()
	if when.Before(a.since) || a.shown[t.GetPaymentId()] == t.GetStatus() {
		return
	}
	a.shown[t.GetPaymentId()] = t.GetStatus()
	if t.GetStatus() == mobilev1.TransferStatus_TRANSFER_STATUS_DONE || t.GetStatus() == mobilev1.TransferStatus_TRANSFER_STATUS_REFUSED {
		delete(a.shown, t.GetPaymentId()) // it changes no more
	}
	text, tone := statusText(t.GetStatus())
	amount := customer.Amount(t.GetAmount())
	if t.GetPayerAccountId() == a.account {
		amount = "-" + amount
	}
	a.rows.Add([]console.Cell{{Text: stamp(when)}, {Text: t.GetPaymentId(), Tone: console.Strong}, {Text: amount}, {Text: text, Tone: tone}})
}
