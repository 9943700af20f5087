package countersign_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken/txntokentest"
	"github.com/countersign-mesh/countersign/pkg/userauth/userauthtest"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
)

const (
	usersIssuer, usersAudience = "https://login.bank.test", "https://bank.test/mobile"

	aliceAccount = "acc-aaaaaaaaaaaaaaaaaaaaaaaaaa"
	otherAccount = "acc-bbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// authorizationServer is what the page's programs need of one: the two services that they call.
type authorizationServer struct {
	loginv1.UnimplementedKeyServiceServer
	loginv1.UnimplementedTransactionTokenServiceServer
	t        testing.TB
	access   *userauthtest.Issuer
	verifier *userauth.Verifier
	// phone is the certificate that its tokens are bound to.
	phone        *x509.Certificate
	transactions *txntokentest.Issuer
}

func (a *authorizationServer) register(r grpc.ServiceRegistrar) {
	loginv1.RegisterKeyServiceServer(r, a)
	loginv1.RegisterTransactionTokenServiceServer(r, a)
}

func (a *authorizationServer) GetEdgeKeys(context.Context, *loginv1.GetEdgeKeysRequest) (*loginv1.GetEdgeKeysResponse, error) {
	return &loginv1.GetEdgeKeysResponse{AccessTokenKeys: a.access.JWKS(a.t)}, nil
}

func (a *authorizationServer) GetTransactionKeys(context.Context, *loginv1.GetTransactionKeysRequest) (*loginv1.GetTransactionKeysResponse, error) {
	return &loginv1.GetTransactionKeysResponse{Keys: a.transactions.JWKS(a.t)}, nil
}

func (a *authorizationServer) IssueTransactionToken(ctx context.Context, req *loginv1.IssueTransactionTokenRequest) (*loginv1.IssueTransactionTokenResponse, error) {
	customer, err := a.verifier.Verify(ctx, req.GetAccessToken(), a.phone)
	if err != nil {
		return nil, err
	}
	if !customer.HasScope(req.GetScope()) {
		return nil, status.Error(codes.PermissionDenied, "the access token does not have that scope")
	}
	token := asking(customer.Subject, req.GetContext()["account_id"])
	return &loginv1.IssueTransactionTokenResponse{
		TransactionToken: a.transactions.Token(a.t, token, 0), ExpireTime: timestamppb.New(time.Now().Add(2 * time.Minute)),
	}, nil
}

// asking is what the transaction token of somebody says who asks for the balance of an account.
func asking(customer, account string) txntoken.Token {
	return txntoken.Token{
		ID: "txn-00000001", Subject: customer, Scope: "accounts.read", Requesters: []string{"spiffe://bank.test/gateway"},
		Context: map[string]string{"account_id": account},
	}
}

// usersWorld is the programs of the page's section on users, and whom they are called by.
type usersWorld struct {
	mesh          *meshtest.Mesh
	policy        string
	socket        func(workload string) string
	login         *authorizationServer
	devices       *userauthtest.Authority
	phone, stolen tls.Certificate
	// bin has the programs; edge, ledger and authorization are where they are served.
	bin, edge, ledger, authorization string
}

func newUsersWorld(t *testing.T, bin string) *usersWorld {
	t.Helper()
	w := &usersWorld{bin: bin, policy: filepath.Join(adopting, "users", "policy.yaml"), devices: userauthtest.NewAuthority(t)}
	w.phone, w.stolen = w.devices.Device(t, "dev-phone"), w.devices.Device(t, "dev-stolen")
	w.mesh = meshtest.Open(t, "bank.test", w.policy)
	w.socket = func(workload string) string {
		w.mesh.Identity(t, workload)
		return w.mesh.API(t, workload).Addr()
	}
	access := userauthtest.NewIssuer(t, usersIssuer, usersAudience)
	w.login = &authorizationServer{
		t: t, access: access, verifier: userauth.NewVerifier(access, usersIssuer, usersAudience), phone: w.phone.Leaf, transactions: txntokentest.New(t, "bank.test"),
	}
	w.authorization = w.mesh.Serve(t, "/login", w.login.register)
	w.ledger = start(t, w.socket("/ledger"), filepath.Join(w.bin, "users", "server"), "localhost:0", w.policy, w.authorization)
	own := w.devices.Server(t)
	key, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var files []string
	for _, f := range []struct {
		name, kind string
		der        []byte
	}{{"edge.pem", "CERTIFICATE", own.Leaf.Raw}, {"edge.key", "PRIVATE KEY", key}, {"devices.pem", "CERTIFICATE", w.devices.DER()}} {
		path := filepath.Join(dir, f.name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, path)
	}
	w.edge = start(t, w.socket("/gateway"), filepath.Join(w.bin, "users", "edge"), append([]string{"localhost:0", w.policy, w.authorization, w.ledger}, files...)...)
	return w
}

// ask asks the edge for a balance, as a device with a certificate does.
func (w *usersWorld) ask(t *testing.T, cert tls.Certificate, authorization ...string) (minorUnits int64, err error) {
	t.Helper()
	config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: w.devices.Pool(), Certificates: []tls.Certificate{cert}, ServerName: "localhost"}
	conn, err := grpc.NewClient("passthrough:///"+w.edge, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return balance(metadata.NewOutgoingContext(t.Context(), metadata.MD{"authorization": authorization}), conn, aliceAccount)
}

func balance(ctx context.Context, conn grpc.ClientConnInterface, account string) (minorUnits int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	reply, err := ledgerv1.NewLedgerServiceClient(conn).GetBalance(ctx, &ledgerv1.GetBalanceRequest{AccountId: account})
	if err != nil {
		return 0, err
	}
	return reply.GetBalances()[0].GetMinorUnits(), nil
}

// adoptingUsers runs the programs of the page's section on users, as it says.
func adoptingUsers(t *testing.T, bin string) {
	w := newUsersWorld(t, bin)
	t.Run("at the edge a token is nothing without its certificate", w.testEdge)
	t.Run("behind it the edge gets what a customer has asked for, and nothing else", w.testBehindTheEdge)
}

func (w *usersWorld) testEdge(t *testing.T) {
	t.Parallel()
	token := func(changes userauthtest.Claims) string {
		return "Bearer " + w.login.access.Token(t, w.phone.Leaf, changes)
	}
	for name, c := range map[string]struct {
		cert          tls.Certificate
		authorization []string
		want          codes.Code
	}{
		"a good token":                      {w.phone, []string{token(nil)}, codes.OK},
		"no token":                          {w.phone, nil, codes.Unauthenticated},
		"a token with another certificate":  {w.stolen, []string{token(nil)}, codes.Unauthenticated},
		"a token that is bound to none":     {w.phone, []string{token(userauthtest.Claims{"cnf": nil})}, codes.Unauthenticated},
		"a token for somebody else":         {w.phone, []string{token(userauthtest.Claims{"aud": "https://bank.test/branch"})}, codes.Unauthenticated},
		"a token without the scope":         {w.phone, []string{token(userauthtest.Claims{"scope": "transfer"})}, codes.PermissionDenied},
		"a token and no certificate at all": {tls.Certificate{}, []string{token(nil)}, codes.Unavailable},
	} {
		got, err := w.ask(t, c.cert, c.authorization...)
		if status.Code(err) != c.want || (err == nil) != (got == 2500) {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
}

func (w *usersWorld) testBehindTheEdge(t *testing.T) {
	t.Parallel()
	// The client that was answered before there was `user:` in the policy. It is the same workload as the edge.
	out, err := run(t, w.socket("/gateway"), filepath.Join(w.bin, "after", "client"), w.ledger, aliceAccount, w.policy)
	if err == nil || !strings.Contains(out, "PermissionDenied") {
		t.Errorf("a call without a token: %v\n%s", err, out)
	}
	for name, c := range map[string]struct {
		from, account string
		ago           time.Duration
		want          codes.Code
	}{
		"what was asked for":              {"/gateway", aliceAccount, 0, codes.OK},
		"another account":                 {"/gateway", otherAccount, 0, codes.PermissionDenied},
		"what was asked for a while ago":  {"/gateway", aliceAccount, 10 * time.Minute, codes.PermissionDenied},
		"another workload with the token": {"/risk", aliceAccount, 0, codes.PermissionDenied},
	} {
		conn := w.mesh.Dial(t, c.from, "/ledger", w.ledger, mesh.WithTransactionTokens("bank.ledger.v1.LedgerService"))
		ctx := w.login.transactions.ContextAgo(t, t.Context(), asking("alice", aliceAccount), c.ago)
		if _, err := balance(ctx, conn, c.account); status.Code(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A server that was forgotten does not take users for granted: it does not start.
	out, err = run(t, w.socket("/ledger"), filepath.Join(w.bin, "after", "server"), "localhost:0", w.policy)
	if err == nil || !strings.Contains(out, "this server verifies no users' tokens") {
		t.Errorf("a server that verifies no tokens: %v\n%s", err, out)
	}
}
