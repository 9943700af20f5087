package bank

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/countersign-mesh/countersign/pkg/userauth/device"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
)

// Scopes are all that a customer's device may ask for.
func Scopes() []string {
	return []string{"accounts.read", "accounts.open", "accounts.close", "transfer"}
}

// Register makes a customer known, as the operator does, and returns the secret of the customer's one-time codes.
type Register func(ctx context.Context, request *loginv1.RegisterCustomerRequest) (*loginv1.RegisterCustomerResponse, error)

// Phone is a customer's device that is logged in with a one-time code. It is no workload: it comes in at the edge, with a certificate that the
// bank gave to the device and an access token that is bound to that. It is safe for concurrent use.
type Phone struct {
	Customer string
	Edge     Edge
	Device   *device.Device
	// Session is what the phone is logged in by; LogIn replaces it.
	Session *device.Session

	codes *authenticator
	conn  *grpc.ClientConn
}

// NewPhone registers a customer, and enrols and logs in a device.
func NewPhone(t testing.TB, edge Edge, register Register, customer string) *Phone {
	t.Helper()
	p, err := newPhone(t.Context(), edge, register, customer)
	if err != nil {
		t.Fatalf("the phone of %s: %v", customer, err)
	}
	p.conn = p.Dial(t)
	return p
}

// NewPhones is NewPhone for many customers at once.
func NewPhones(t testing.TB, edge Edge, register Register, customers ...string) []*Phone {
	t.Helper()
	const width = 4 // passwords are slow to check, on purpose
	phones, errs := make([]*Phone, len(customers)), make([]error, len(customers))
	var enrolling sync.WaitGroup
	for n := range width {
		enrolling.Go(func() {
			for i := n; i < len(customers); i += width {
				phones[i], errs[i] = newPhone(t.Context(), edge, register, customers[i])
			}
		})
	}
	enrolling.Wait()
	for i, p := range phones {
		if errs[i] != nil {
			t.Fatalf("the phone of %s: %v", customers[i], errs[i])
		}
		p.conn = p.Dial(t)
	}
	return phones
}

func newPhone(ctx context.Context, edge Edge, register Register, customer string) (*Phone, error) {
	registered, err := register(ctx, &loginv1.RegisterCustomerRequest{CustomerId: customer, Username: customer, Password: password(customer)})
	if err != nil {
		return nil, fmt.Errorf("register: %w", err)
	}
	p := &Phone{Customer: customer, Edge: edge, codes: &authenticator{secret: registered.GetOtpSecret()}}
	err = p.enrol(ctx)
	if err == nil {
		err = p.logIn(ctx, true)
	}
	return p, err
}

// password is what a customer logs in with.
func password(customer string) string { return "correct horse battery staple of " + customer }

func (e Edge) server() device.Server {
	return device.Server{Issuer: e.Issuer, Roots: e.Roots, Address: e.Login}
}

func (p *Phone) enrol(ctx context.Context) error {
	return patiently(ctx, func() error {
		code, err := p.codes.Code(ctx)
		if err != nil {
			return err
		}
		p.Device, err = device.Enrol(ctx, p.Edge.server(), p.Customer, password(p.Customer), code, "the phone of "+p.Customer)
		return wrap("enrol", err)
	})
}

func (p *Phone) logIn(ctx context.Context, withCode bool, scopes ...string) error {
	if len(scopes) == 0 {
		scopes = Scopes()
	}
	return patiently(ctx, func() (err error) {
		code := ""
		if withCode {
			if code, err = p.codes.Code(ctx); err != nil {
				return err
			}
		}
		p.Session, err = p.Device.Login(ctx, p.Edge.server(), p.Customer, password(p.Customer), code, scopes...)
		return wrap("log in", err)
	})
}

func wrap(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// patiently tries again when the bank says that it was asked too often, after the time that it says.
func patiently(ctx context.Context, try func() error) error {
	for {
		err := try()
		var refused *device.Error
		if !errors.As(err, &refused) || refused.Status != http.StatusTooManyRequests {
			return err
		}
		select {
		case <-time.After(refused.RetryAfter):
		case <-ctx.Done():
			return err
		}
	}
}

// LogIn logs the phone in again at an edge, which may be another one than before, with a one-time code or with the password alone, for some
// scopes or for all.
func (p *Phone) LogIn(t testing.TB, edge Edge, withCode bool, scopes ...string) {
	t.Helper()
	p.Edge = edge
	if err := p.logIn(t.Context(), withCode, scopes...); err != nil {
		t.Fatalf("the phone of %s: %v", p.Customer, err)
	}
	p.conn = p.Dial(t)
}

// Another returns another device of the same customer, logged in by the password alone: it takes one one-time code to enrol it, and the next comes in half a
// minute.
func (p *Phone) Another(t testing.TB) *Phone {
	t.Helper()
	other := &Phone{Customer: p.Customer, Edge: p.Edge, codes: p.codes}
	err := other.enrol(t.Context())
	if err == nil {
		err = other.logIn(t.Context(), false)
	}
	if err != nil {
		t.Fatalf("another phone of %s: %v", p.Customer, err)
	}
	other.conn = other.Dial(t)
	return other
}

// TLS returns what the phone connects to the edge with: its certificate, and crypto/tls as it comes.
func (p *Phone) TLS() *tls.Config { return p.Device.TLS(p.Edge.Roots, edgeName) }

// Dial connects the phone to the gateway, with its session's token in each call.
func (p *Phone) Dial(t testing.TB, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	return p.DialAt(t, p.Edge.GRPC, opts...)
}

// DialAt is Dial by another address that leads to the gateway.
func (p *Phone) DialAt(t testing.TB, address string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	return Dial(t, address, credentials.NewTLS(p.TLS()), append(opts, grpc.WithPerRPCCredentials(p.Session.PerRPC()))...)
}

// Conn returns the phone's connection to the gateway.
func (p *Phone) Conn() *grpc.ClientConn { return p.conn }

// Bank returns the bank as the phone has it.
func (p *Phone) Bank() mobilev1.MobileBankServiceClient {
	return mobilev1.NewMobileBankServiceClient(p.conn)
}

// HTTP returns what the phone makes requests to the gateway's REST side with; see URL. It keeps connections until the test ends.
func (p *Phone) HTTP(t testing.TB) *http.Client {
	t.Helper()
	base := &http.Transport{TLSClientConfig: p.TLS(), ForceAttemptHTTP2: true}
	t.Cleanup(base.CloseIdleConnections)
	return &http.Client{Transport: p.Session.Transport(base), Timeout: answerTime}
}

// URL returns where something of the gateway's REST side is.
func (p *Phone) URL(path string) string { return "https://" + p.Edge.REST + path }

// registerBy makes customers known as the operator, on a connection to login.
func registerBy(conn grpc.ClientConnInterface) Register {
	customers := loginv1.NewCustomerServiceClient(conn)
	return func(ctx context.Context, request *loginv1.RegisterCustomerRequest) (*loginv1.RegisterCustomerResponse, error) {
		return customers.RegisterCustomer(ctx, request)
	}
}

// Phone registers a customer and returns the customer's phone, logged in.
func (a *Apart) Phone(t testing.TB, customer string) *Phone {
	t.Helper()
	return NewPhone(t, a.Edge(t), registerBy(a.Dial(t, a.Identity(t, "operator"), "login")), customer)
}

// Phones is Phone for many customers.
func (a *Apart) Phones(t testing.TB, customers ...string) []*Phone {
	t.Helper()
	return NewPhones(t, a.Edge(t), registerBy(a.Dial(t, a.Identity(t, "operator"), "login")), customers...)
}

// Phone registers a customer and returns the customer's phone, logged in.
func (m *Mesh) Phone(t testing.TB, customer string) *Phone {
	t.Helper()
	return NewPhone(t, m.Edge(t), registerBy(m.Dial(t, m.Identity(t, "operator"), "login")), customer)
}

// TryLogIn logs the phone in by the password alone and returns what the bank says; the session that the phone has stays.
func (p *Phone) TryLogIn(ctx context.Context) error {
	other := *p
	return other.logIn(ctx, false)
}

// Secrets are what only the customer and the customer's bank know.
func (p *Phone) Secrets() []string { return []string{password(p.Customer), p.codes.secret} }

// Files writes the device's certificate and key as device.pem and device.key, for programs that take files, and returns the directory.
func (p *Phone) Files(t testing.TB) string {
	t.Helper()
	certificate := p.TLS().Certificates[0]
	pkcs8, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range map[string][]byte{
		"device.pem": PEM(p.Device.Certificate()), "device.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
