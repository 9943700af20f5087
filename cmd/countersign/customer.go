package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"

	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
)

type customerCommand struct {
	Add          customerAddCommand     `cmd:"" help:"Make somebody a customer, who may then enrol devices (countersign bank enrol)."`
	Devices      customerDevicesCommand `cmd:"" help:"List a customer's devices."`
	RevokeDevice revokeDeviceCommand    `cmd:"" name:"revoke-device" help:"End a device that was lost or stolen, for good: it is cut wherever it is connected."`
}

// toLogin runs f with a connection to login, as the operator.
func toLogin(ctx context.Context, s *session, w workload, f func(loginv1.CustomerServiceClient) error) error {
	return server{Addr: "login"}.dialled(ctx, s, w, func(_ *dial.Workload, conn *grpc.ClientConn) error {
		return dial.Explain(f(loginv1.NewCustomerServiceClient(conn)))
	})
}

type customerAddCommand struct {
	workload
	ID           string `arg:"" name:"customer" expects:"a customer, such as alice" help:"What the bank calls the customer: a-z, 0-9 and dash."`
	Username     string `placeholder:"NAME" help:"What the customer logs in with; the customer's ID by default."`
	PasswordFile string `placeholder:"FILE" help:"The customer's password, in a file, or - for standard input. By default it is COUNTERSIGN_PASSWORD in the environment, or one is made up."`
}

func (c *customerAddCommand) Run(ctx context.Context, s *session) error {
	password, made, err := c.password(s)
	if err != nil {
		return err
	}
	username := c.Username
	if username == "" {
		username = c.ID
	}
	return toLogin(ctx, s, c.workload, func(client loginv1.CustomerServiceClient) error {
		r, err := client.RegisterCustomer(ctx, &loginv1.RegisterCustomerRequest{CustomerId: c.ID, Username: username, Password: password})
		if err != nil {
			return err
		}
		lines := [][2]string{{"customer", c.ID}, {"user name", username}, {"OTP secret", r.GetOtpSecret()}}
		if made {
			lines = append(lines, [2]string{"password", password})
		}
		for _, line := range lines {
			s.out.Printf("%s  %s\n", s.out.Say(console.Faint, fmt.Sprintf("%-10s", line[0])), line[1])
		}
		s.out.Printf("%s\n", s.out.Say(console.Faint, "They are told this once. The secret is for an authenticator app, or for COUNTERSIGN_OTP_SECRET."))
		return nil
	})
}

// password returns the customer's password, and whether it was made up here.
func (c *customerAddCommand) password(s *session) (password string, made bool, err error) {
	if c.PasswordFile != "" || os.Getenv(passwordVariable) != "" {
		password, err = secrets{PasswordFile: c.PasswordFile}.password(s)
		if err == nil && password == "" {
			err = errors.New("--password-file: it is empty")
		}
		return password, false, err
	}
	text := strings.ToLower(rand.Text())
	return text[:6] + "-" + text[6:12] + "-" + text[12:18] + "-" + text[18:24], true, nil
}

type customerDevicesCommand struct {
	workload
	ID string `arg:"" name:"customer" expects:"a customer, such as alice" help:"Whose."`
}

func (c *customerDevicesCommand) Run(ctx context.Context, s *session) error {
	return toLogin(ctx, s, c.workload, func(client loginv1.CustomerServiceClient) error {
		r, err := client.ListDevices(ctx, &loginv1.ListDevicesRequest{CustomerId: c.ID})
		if err != nil {
			return err
		}
		if len(r.GetDevices()) == 0 {
			s.out.Printf("%s has no device.\n", c.ID)
			return nil
		}
		var rows [][]console.Cell
		for _, d := range r.GetDevices() {
			state, tone := "good", console.Good
			if d.GetRevokeTime() != nil {
				state, tone = "revoked "+stamp(d.GetRevokeTime().AsTime()), console.Bad
			}
			rows = append(rows, []console.Cell{
				{Text: d.GetDeviceId(), Tone: console.Strong},
				{Text: or(console.Visible(d.GetName()))},
				{Text: stamp(d.GetEnrolTime().AsTime())},
				{Text: stamp(d.GetExpireTime().AsTime())},
				{Text: state, Tone: tone},
				{Text: d.GetCertificateSerial()},
			})
		}
		s.out.Table([]string{"device", "name", "enrolled", "expires", "state", "serial"}, rows)
		return nil
	})
}

type revokeDeviceCommand struct {
	workload
	Device string `arg:"" expects:"a device, as countersign customer devices lists them" help:"Which, such as dev-…."`
}

func (c *revokeDeviceCommand) Run(ctx context.Context, s *session) error {
	return toLogin(ctx, s, c.workload, func(client loginv1.CustomerServiceClient) error {
		r, err := client.RevokeDevice(ctx, &loginv1.RevokeDeviceRequest{DeviceId: c.Device})
		if err != nil {
			return err
		}
		s.out.Printf("%s is revoked, with its sessions and their tokens. It is cut wherever it is connected within a second.\n", r.GetDevice().GetDeviceId())
		return nil
	})
}
