package main

import (
	"context"
	"errors"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/customer"
	"github.com/countersign-mesh/countersign/pkg/userauth/device"
)

type bankCommand struct {
	bankFlags
	Enrol     bankEnrolCommand     `cmd:"" help:"Make this a device of a customer's: it gets a key and a certificate of its own."`
	Login     bankLoginCommand     `cmd:"" help:"Log in on this device; with a one-time code for what the bank wants one for."`
	Accounts  bankAccountsCommand  `cmd:"" help:"List the customer's accounts."`
	Open      bankOpenCommand      `cmd:"" help:"Open an account."`
	Pay       bankPayCommand       `cmd:"" help:"Pay from an account of the customer's to any other."`
	Statement bankStatementCommand `cmd:"" help:"Show what went in and out of an account."`
	Watch     bankWatchCommand     `cmd:"" help:"Show payments as they happen, until Ctrl-C."`
	Token     bankTokenCommand     `cmd:"" help:"Print an access token, for curl."`
	Logout    bankLogoutCommand    `cmd:"" help:"End the session, everywhere."`
}

// Help implements kong's longer help of a command.
func (c *bankCommand) Help() string {
	return `This is the bank as a customer's phone has it: over the gateway's edge, with a certificate of the bank's device authority and an access token that is good
with that certificate alone. It needs no identity of the mesh. The operator makes somebody a customer first (countersign customer add):

  countersign customer add alice                    # prints a password, and the secret of the one-time codes
  export COUNTERSIGN_PASSWORD=… COUNTERSIGN_OTP_SECRET=…
  countersign bank enrol --username alice
  countersign bank login
  countersign bank open "Everyday money"
  countersign bank accounts
  countersign bank pay acc-… 25.00 --reference coffee
  countersign bank watch`
}

type bankEnrolCommand struct {
	secrets
	Username string `required:"" placeholder:"NAME" help:"What the customer logs in with."`
	Name     string `default:"countersign" placeholder:"TEXT" help:"What the customer calls this device (${default})."`
}

func (c *bankEnrolCommand) Run(ctx context.Context, s *session, of *bankCommand) (err error) {
	defer func() { err = of.advise(err) }()
	bank, err := of.bank(s)
	if err != nil {
		return err
	}
	profile, err := of.profile(s)
	if err != nil {
		return err
	}
	if err := profile.Prepare(); err != nil {
		return err
	}
	password, err := c.password(s)
	if err != nil {
		return err
	}
	code, err := c.code(ctx, profile)
	if err != nil {
		return err
	}
	if code == "" {
		return errors.New("which one-time code? A new device takes one: --otp, or --otp-secret (COUNTERSIGN_OTP_SECRET)")
	}
	phone, err := device.Enrol(ctx, bank.Login(), c.Username, password, code, c.Name)
	if err != nil {
		return err
	}
	if err := profile.Enrolled(phone, c.Username); err != nil {
		return err
	}
	cert := phone.Certificate()
	s.out.Printf("%s is a device of %s now.\n", s.out.Say(console.Strong, phone.ID()), c.Username)
	s.out.Printf("Its certificate, %x, expires at %s. It is in %s, with its key.\n", cert.SerialNumber, stamp(cert.NotAfter), profile)
	return nil
}

type bankLoginCommand struct{ secrets }

func (c *bankLoginCommand) Run(ctx context.Context, s *session, of *bankCommand) (err error) {
	defer func() { err = of.advise(err) }()
	bank, err := of.bank(s)
	if err != nil {
		return err
	}
	profile, err := of.profile(s)
	if err != nil {
		return err
	}
	phone, err := profile.Device()
	if err != nil {
		return err
	}
	password, err := c.password(s)
	if err != nil {
		return err
	}
	code, err := c.code(ctx, profile)
	if err != nil {
		return err
	}
	session, err := phone.Login(ctx, bank.Login(), profile.Username(), password, code, customer.Scopes()...)
	if err != nil {
		return err
	}
	// What is stolen from here would else be good for a while, and nobody could end it any more. That it cannot be ended now is no reason to stay out.
	if _, earlier, err := profile.Session(bank); err == nil {
		_ = earlier.Revoke(ctx)
	}
	if err := profile.LoggedIn(session); err != nil {
		return err
	}
	how := "by the device and the password"
	if code != "" {
		how += ", and a one-time code"
	}
	s.out.Printf("%s is logged in, %s.\n", profile.Username(), how)
	return nil
}

type bankTokenCommand struct{}

// Help implements kong's longer help of a command.
func (c *bankTokenCommand) Help() string {
	return `The token lives for some minutes, and is good with the device's certificate alone. The bank over REST, with curl:

  device=.countersign/customers/default/device
  curl --cacert .countersign/edge/root.pem --cert $device/device.pem --key $device/device.key \
    -H "Authorization: Bearer $(countersign bank token)" https://localhost:7454/v1/accounts`
}

func (c *bankTokenCommand) Run(ctx context.Context, s *session, of *bankCommand) (err error) {
	defer func() { err = of.advise(err) }()
	bank, err := of.bank(s)
	if err != nil {
		return err
	}
	profile, err := of.profile(s)
	if err != nil {
		return err
	}
	_, session, err := profile.Session(bank)
	if err != nil {
		return err
	}
	token, err := session.Token(ctx)
	if err != nil {
		return err
	}
	s.out.Printf("%s\n", token)
	return nil
}

type bankLogoutCommand struct{}

func (c *bankLogoutCommand) Run(ctx context.Context, s *session, of *bankCommand) (err error) {
	defer func() { err = of.advise(err) }()
	bank, err := of.bank(s)
	if err != nil {
		return err
	}
	profile, err := of.profile(s)
	if err != nil {
		return err
	}
	_, session, err := profile.Session(bank)
	if err != nil {
		return err
	}
	// It is forgotten only when it has ended everywhere: what is stolen from here would else be good for a while.
	if err := session.Revoke(ctx); err != nil {
		return err
	}
	if err := profile.LoggedOut(); err != nil {
		return err
	}
	s.out.Printf("%s is logged out. The device is still enrolled.\n", profile.Username())
	return nil
}
