package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/customer"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
)

// idempotent is a request that the bank takes once, however often it is sent.
type idempotent struct {
	RequestID string `name:"request-id" placeholder:"ID" help:"The request's own name: the bank does what it asks for once, however often it comes. A new one by default."`
}

// id returns the request's name.
func (i idempotent) id() string {
	if i.RequestID != "" {
		return i.RequestID
	}
	return "cli-" + strings.ToLower(rand.Text())
}

// again says how to send a request again whose outcome is not known.
func again(err error, id string) error {
	if c := status.Code(err); c == codes.Unavailable || c == codes.DeadlineExceeded || c == codes.Canceled {
		return fmt.Errorf("%w; it is not known whether it was done: send the same again with --request-id %s", err, id)
	}
	return err
}

type bankOpenCommand struct {
	idempotent
	Name     string `arg:"" optional:"" help:"A name for people, such as \"Everyday money\"."`
	Currency string `default:"EUR" placeholder:"CODE" help:"The account's one currency, ISO 4217 (${default})."`
}

func (c *bankOpenCommand) Run(ctx context.Context, s *session, of *bankCommand) error {
	return of.with(s, func(client mobilev1.MobileBankServiceClient) error {
		id := c.id()
		r, err := client.OpenAccount(ctx, &mobilev1.OpenAccountRequest{RequestId: id, DisplayName: c.Name, CurrencyCode: c.Currency})
		if err != nil {
			return again(err, id)
		}
		s.out.Printf("%s\n", r.GetAccount().GetAccountId())
		return nil
	})
}

type bankAccountsCommand struct{}

func (c *bankAccountsCommand) Run(ctx context.Context, s *session, of *bankCommand) error {
	return of.with(s, func(client mobilev1.MobileBankServiceClient) error {
		list, err := accountsOf(ctx, client)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			s.out.Printf("There is no account yet; open one with: countersign bank open\n")
			return nil
		}
		var rows [][]console.Cell
		for _, a := range list {
			state, tone := "open", console.Good
			switch {
			case a.GetClosed():
				state, tone = "closed", console.Faint
			case a.GetFrozen():
				state, tone = "frozen", console.Wary
			}
			rows = append(rows, []console.Cell{
				{Text: a.GetAccountId(), Tone: console.Strong},
				{Text: or(console.Visible(a.GetDisplayName()))},
				{Text: customer.Amount(a.GetBalance())},
				{Text: state, Tone: tone},
				{Text: stamp(a.GetOpenTime().AsTime())},
			})
		}
		s.out.Table([]string{"account", "name", "balance", "state", "opened"}, rows)
		return nil
	})
}

// accountsOf lists all of a customer's accounts.
func accountsOf(ctx context.Context, client mobilev1.MobileBankServiceClient) ([]*mobilev1.Account, error) {
	var list []*mobilev1.Account
	for page := ""; ; {
		r, err := client.ListAccounts(ctx, &mobilev1.ListAccountsRequest{PageToken: page})
		if err != nil {
			return nil, err
		}
		list = append(list, r.GetAccounts()...)
		if page = r.GetNextPageToken(); page == "" {
			return list, nil
		}
	}
}

// theAccount returns the account that was named, or the customer's only one that is open.
func theAccount(ctx context.Context, client mobilev1.MobileBankServiceClient, named, flag string) (string, error) {
	if named != "" {
		return named, nil
	}
	list, err := accountsOf(ctx, client)
	if err != nil {
		return "", err
	}
	var open []string
	for _, a := range list {
		if !a.GetClosed() {
			open = append(open, a.GetAccountId())
		}
	}
	switch len(open) {
	case 0:
		return "", errors.New("there is no account; open one with: countersign bank open")
	case 1:
		return open[0], nil
	}
	return "", fmt.Errorf("which account? Say it %s; there are %s", flag, strings.Join(open, ", "))
}

type bankPayCommand struct {
	idempotent
	To        string `arg:"" expects:"the account to pay, such as acc-…" help:"The account that is paid."`
	Amount    string `arg:"" expects:"how much, such as 25.00" help:"How much, such as 25.00."`
	From      string `placeholder:"ACCOUNT" help:"The account that pays; the customer's only one by default."`
	Currency  string `default:"EUR" placeholder:"CODE" help:"The currency of both accounts, ISO 4217 (${default})."`
	Reference string `placeholder:"TEXT" help:"Shown on both statements."`
}

// Validate implements kong's check of a command.
func (c *bankPayCommand) Validate() error {
	if c.Amount == "" {
		return nil // which is said in other words
	}
	_, err := minorUnits(c.Amount)
	return err
}

func (c *bankPayCommand) Run(ctx context.Context, s *session, of *bankCommand) error {
	minor, err := minorUnits(c.Amount)
	if err != nil {
		return err
	}
	return of.with(s, func(client mobilev1.MobileBankServiceClient) error {
		from, err := theAccount(ctx, client, c.From, "with --from")
		if err != nil {
			return err
		}
		id := c.id()
		r, err := client.Transfer(ctx, &mobilev1.TransferRequest{
			RequestId: id, PayerAccountId: from, PayeeAccountId: c.To, Reference: c.Reference,
			Amount: &moneyv1.Money{CurrencyCode: c.Currency, MinorUnits: minor},
		})
		if err != nil {
			return again(err, id)
		}
		return paid(s, r.GetTransfer())
	})
}

// paid says what became of a payment. One that the bank has refused is an error: the money has not moved.
func paid(s *session, t *mobilev1.Transfer) error {
	text, tone := statusText(t.GetStatus())
	s.out.Printf("%s  %s  %s\n", t.GetPaymentId(), customer.Amount(t.GetAmount()), s.out.Say(tone, text))
	for _, reason := range t.GetReasons() {
		s.out.Printf("  %s\n", console.Visible(reason))
	}
	if t.GetStatus() == mobilev1.TransferStatus_TRANSFER_STATUS_REFUSED {
		return errors.New("the bank refused the payment; nothing moved")
	}
	return nil
}

func statusText(status mobilev1.TransferStatus) (string, console.Tone) {
	switch status {
	case mobilev1.TransferStatus_TRANSFER_STATUS_DONE:
		return "done", console.Good
	case mobilev1.TransferStatus_TRANSFER_STATUS_REFUSED:
		return "refused", console.Bad
	case mobilev1.TransferStatus_TRANSFER_STATUS_HELD:
		return "held: the bank has to look at it", console.Wary
	case mobilev1.TransferStatus_TRANSFER_STATUS_PENDING:
		return "under way", console.Wary
	default:
		return status.String(), console.Wary
	}
}

var amountPattern = regexp.MustCompile(`^([0-9]{1,15})(?:\.([0-9]{2}))?$`)

// minorUnits reads an amount of a currency that has two decimals, as the euro has.
func minorUnits(text string) (int64, error) {
	parts := amountPattern.FindStringSubmatch(text)
	if parts == nil {
		return 0, fmt.Errorf("%q is no amount; right would be 25.00, or 25", text)
	}
	minor, err := strconv.ParseInt(parts[1]+(parts[2] + "00")[:2], 10, 64)
	if err == nil && minor == 0 {
		err = errors.New("it is not above zero")
	}
	if err != nil {
		return 0, fmt.Errorf("%q is no amount to pay: %w", text, err)
	}
	return minor, nil
}
