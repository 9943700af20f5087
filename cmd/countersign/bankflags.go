package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/charmbracelet/x/term"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/customer"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
	"github.com/countersign-mesh/countersign/pkg/settings"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
)

// bankFlags say which customer's device acts, and where its bank is.
type bankFlags struct {
	Profile string `default:"default" env:"COUNTERSIGN_PROFILE" placeholder:"NAME" help:"Which of several customers, or devices of one (${default})."`
	State   string `env:"COUNTERSIGN_CUSTOMERS" placeholder:"DIR" help:"Where the profiles are; by default customers in --run-dir."`
	GRPC    string `name:"grpc" env:"COUNTERSIGN_EDGE" placeholder:"HOST:PORT" help:"The gateway's edge; by default that of the mesh."`
	Issuer  string `env:"COUNTERSIGN_ISSUER" placeholder:"URL" help:"What login is known by; by default as the mesh has it."`
	Login   string `env:"COUNTERSIGN_LOGIN" placeholder:"HOST:PORT" help:"Where to connect to login, when that is elsewhere than its URL says."`
	Root    string `env:"COUNTERSIGN_ROOT" placeholder:"FILE" help:"By whom the edge's certificate is verified, as countersign edge root prints it; by default as the mesh has it."`
}

// Validate implements kong's check of a command.
func (f *bankFlags) Validate() error {
	var errs []error
	if err := customer.CheckName(f.Profile); err != nil {
		errs = append(errs, fmt.Errorf("--profile: %w", err))
	}
	if f.Issuer != "" {
		if err := (*settings.Issuer)(&f.Issuer).Check(); err != nil {
			errs = append(errs, fmt.Errorf("--issuer: %w", err))
		}
	}
	return errors.Join(errs...)
}

// bank is where the customer finds the bank: where the flags say, and where the mesh does for what they leave out.
func (f *bankFlags) bank(s *session) (customer.Bank, error) {
	e := rundir.Edge{GRPC: f.GRPC, Login: f.Login, Issuer: f.Issuer, Root: f.Root}
	if e.GRPC != "" && e.Issuer != "" && e.Root != "" {
		return customer.At(e)
	}
	const left = "where is the bank? --grpc, --issuer and --root are not all given, and"
	mesh, err := s.mesh.Find()
	if err != nil {
		return customer.Bank{}, fmt.Errorf("%s %w", left, err)
	}
	if mesh.Edge.Issuer == "" {
		return customer.Bank{}, fmt.Errorf("%s %s says no edge", left, mesh.Name)
	}
	if e.Issuer == "" { // another issuer is not where the mesh's is
		e.Login = cmp.Or(e.Login, mesh.Edge.Login)
	}
	e.GRPC, e.Issuer, e.Root = cmp.Or(e.GRPC, mesh.Edge.GRPC), cmp.Or(e.Issuer, mesh.Edge.Issuer), cmp.Or(e.Root, mesh.Edge.Root)
	return customer.At(e)
}

func (f *bankFlags) profile(s *session) (*customer.Profile, error) {
	parent := f.State
	if parent == "" {
		parent = s.dir.Customers()
	}
	return customer.OpenProfile(parent, f.Profile)
}

// advise adds to an error what the customer can do about it.
func (f *bankFlags) advise(err error) error {
	command := "countersign bank"
	if f.Profile != "default" {
		command += " --profile " + f.Profile
	}
	return customer.Advise(err, command)
}

// with runs what the customer wants of the bank.
func (f *bankFlags) with(s *session, do func(mobilev1.MobileBankServiceClient) error) (err error) {
	defer func() { err = f.advise(err) }()
	bank, err := f.bank(s)
	if err != nil {
		return err
	}
	profile, err := f.profile(s)
	if err != nil {
		return err
	}
	phone, session, err := profile.Session(bank)
	if err != nil {
		return err
	}
	conn, err := bank.Dial(phone, session)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	return do(mobilev1.NewMobileBankServiceClient(conn))
}

// secrets are what a customer knows, or has: none of it is an argument unless the customer wants it so, since everybody on the machine sees those.
type secrets struct {
	PasswordFile string `placeholder:"FILE" help:"The password, in a file, or - for standard input. By default it is COUNTERSIGN_PASSWORD in the environment, or asked for."`
	OTP          string `name:"otp" xor:"otp" placeholder:"CODE" help:"The one-time code that the customer's authenticator app shows."`
	OTPSecret    string `name:"otp-secret" xor:"otp" placeholder:"BASE32" help:"The secret of the one-time codes, for this program to stand in for the app. Without --otp it is COUNTERSIGN_OTP_SECRET in the environment, where there is one."`
}

// passwordVariable and otpSecretVariable are where the environment has them.
const (
	passwordVariable  = "COUNTERSIGN_PASSWORD"
	otpSecretVariable = "COUNTERSIGN_OTP_SECRET" //nolint:gosec // G101: the name, not a secret
)

// password returns the customer's password, or one for whoever asks for it under a name.
func (c secrets) password(s *session) (string, error) {
	if c.PasswordFile != "" {
		in, done, err := requests("--password-file", fileArgument(c.PasswordFile), s.stdin)
		if err != nil {
			return "", err
		}
		text, err := io.ReadAll(io.LimitReader(in, 4096))
		if err = errors.Join(err, done()); err != nil {
			return "", fmt.Errorf("--password-file: %w", err)
		}
		return strings.TrimRight(string(text), "\r\n"), nil
	}
	if password := os.Getenv(passwordVariable); password != "" {
		return password, nil
	}
	file, ok := s.stdin.(*os.File)
	if !ok || !term.IsTerminal(file.Fd()) {
		return "", fmt.Errorf("which password? There is no --password-file and no %s, and nobody to ask", passwordVariable)
	}
	s.err.Printf("Password: ")
	text, err := term.ReadPassword(file.Fd())
	s.err.Printf("\n")
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return string(text), nil
}

// fileArgument is a file as requests wants it.
func fileArgument(path string) string {
	if path == "-" {
		return path
	}
	return "@" + filepath.Clean(path)
}

// code returns a one-time code; empty when the customer wants to use none.
func (c secrets) code(ctx context.Context, p *customer.Profile) (string, error) {
	if c.OTP != "" {
		return c.OTP, nil
	}
	secret := cmp.Or(c.OTPSecret, os.Getenv(otpSecretVariable))
	if secret == "" {
		return "", nil
	}
	codes := p.Codes(secret)
	code, err := codes.Next(ctx)
	if err != nil {
		return "", fmt.Errorf("--otp-secret: %w", err)
	}
	return code, p.Used(codes)
}
