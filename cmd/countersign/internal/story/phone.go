package story

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/customer"
	"github.com/countersign-mesh/countersign/pkg/userauth/device"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
)

// person is a customer of the bank, who comes in over the edge with a phone and is no workload of the mesh.
type person struct {
	name, id, password string
	codes              *customer.Codes
	phone              *phone
	account            string
}

// phone is a device with somebody logged in on it.
type phone struct {
	device  *device.Device
	session *device.Session
	conn    *grpc.ClientConn
}

// bank is the bank as the phone has it.
func (f *phone) bank() mobilev1.MobileBankServiceClient {
	return mobilev1.NewMobileBankServiceClient(f.conn)
}

func (f *phone) close() error {
	if f == nil || f.conn == nil {
		return nil
	}
	return f.conn.Close()
}

// welcome has the operator make somebody a customer.
func (p *player) welcome(ctx context.Context, who *person) error {
	who.password = rand.Text()
	r, err := loginv1.NewCustomerServiceClient(p.login).RegisterCustomer(ctx, &loginv1.RegisterCustomerRequest{
		CustomerId: who.id, Username: who.id, Password: who.password,
	})
	if err != nil {
		return err
	}
	who.codes = customer.NewCodes(r.GetOtpSecret())
	return nil
}

// enrol makes a device of somebody's, with a one-time code, and logs in on it with the password alone.
func (p *player) enrol(ctx context.Context, who *person, name string) (*phone, error) {
	code, err := who.codes.Next(ctx)
	if err != nil {
		return nil, err
	}
	d, err := device.Enrol(ctx, p.bank.Login(), who.id, who.password, code, name)
	if err != nil {
		return nil, fmt.Errorf("enrol %s of %s: %w", name, who.name, err)
	}
	f := &phone{device: d}
	return f, p.logIn(ctx, who, f, "")
}

// logIn logs somebody in on a phone, in the place of an earlier session, and with a one-time code unless it is empty.
func (p *player) logIn(ctx context.Context, who *person, f *phone, code string) error {
	session, err := f.device.Login(ctx, p.bank.Login(), who.id, who.password, code, customer.Scopes()...)
	if err != nil {
		return fmt.Errorf("log %s in: %w", who.name, err)
	}
	conn, err := p.bank.Dial(f.device, session)
	if err != nil {
		return err
	}
	err = f.close()
	f.session, f.conn = session, conn
	return err
}

// customers: the operator has seen the persons; from then on each proves who it is, by a device that nobody else has and what only they know.
func (p *player) customers(ctx context.Context) error {
	for _, who := range []*person{&p.alice, &p.bob} {
		if err := p.welcome(ctx, who); err != nil {
			return err
		}
		p.call("operator", "login", "bank.login.v1.CustomerService/RegisterCustomer")
		var err error
		if who.phone, err = p.enrol(ctx, who, "phone"); err != nil {
			return err
		}
		cert := who.phone.device.Certificate()
		p.check(cert != nil && cert.Subject.CommonName == who.phone.device.ID() && len(cert.URIs) == 0,
			fmt.Sprintf("%s has enrolled a phone, %s, which is no workload of the mesh", who.name, who.phone.device.ID()), fmt.Sprint(cert))
		if cert != nil {
			p.note("certificate %s, by %s", tail(fmt.Sprintf("%x", cert.SerialNumber)), cert.Issuer.CommonName)
		}
	}
	return p.codeTwice(ctx)
}

// codeTwice: who looked over Bob's shoulder has his password and the code that he has just used.
func (p *player) codeTwice(ctx context.Context) error {
	used, err := p.bob.codes.Again()
	if err != nil {
		return err
	}
	_, err = device.Enrol(ctx, p.bank.Login(), p.bob.id, p.bob.password, used, "another phone")
	refused, ok := errors.AsType[*device.Error](err)
	if err != nil && !ok {
		return err
	}
	p.check(ok, "the code that Bob used enrols no second phone", "it did")
	if ok {
		p.note("%s", strings.TrimSpace(refused.Error()))
	}
	return nil
}
