package story

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/customer"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/pkg/userauth/device"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
)

// maxAnswer bounds what is read of an answer over REST.
const maxAnswer = 1 << 16

// stolenToken: a token is bound to the certificate that it was issued to (RFC 8705 §3). Mallory is a customer too, with a good phone, and has somehow
// come by the token that Alice's phone uses.
func (p *player) stolenToken(ctx context.Context) (err error) {
	mallory := &p.mallory
	if err := p.welcome(ctx, mallory); err != nil {
		return err
	}
	if mallory.phone, err = p.enrol(ctx, mallory, "phone"); err != nil {
		return err
	}
	token, err := p.alice.phone.session.Token(ctx)
	if err != nil {
		return err
	}
	code, err := p.ask(ctx, p.alice.phone.device, token)
	if err != nil {
		return err
	}
	expect(p, "with Alice's phone the token is good, over REST as well", http.StatusOK, code)
	if code, err = p.ask(ctx, mallory.phone.device, token); err != nil {
		return err
	}
	expect(p, "from Mallory's phone the answer is 401", http.StatusUnauthorized, code)
	if err := p.present(ctx, mallory.phone.device, token); err != nil {
		return err
	}
	if err := p.openAccount(ctx, mallory); err != nil {
		return err
	}
	r, err := mallory.phone.bank().ListAccounts(ctx, &mobilev1.ListAccountsRequest{})
	if err != nil {
		return err
	}
	expect(p, "with a token of his own Mallory has an account, and sees no other", 1, len(r.GetAccounts()))
	return p.balances(ctx, " still")
}

// ask lists the accounts over REST with a device and a token, and returns the status of the answer.
func (p *player) ask(ctx context.Context, d *device.Device, token string) (code int, err error) {
	client, url, err := p.bank.HTTP(d)
	if err != nil {
		return 0, err
	}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/accounts", nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(response.Body, maxAnswer))
	if challenge := response.Header.Get("WWW-Authenticate"); challenge != "" {
		p.note("WWW-Authenticate: %s", challenge)
	}
	return response.StatusCode, errors.Join(err, response.Body.Close())
}

// present shows a token over gRPC from a device that it is not bound to, and checks that it is refused.
func (p *player) present(ctx context.Context, d *device.Device, token string) (err error) {
	conn, err := p.bank.Dial(d, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	refused := p.listWith(ctx, conn, token)
	refusal, ok := errors.AsType[*dial.StatusError](refused)
	if refused != nil && !ok {
		return refused
	}
	p.check(ok && refusal.Status.Code() == codes.Unauthenticated && customer.Reason(refused) == customer.ReasonInvalidToken,
		"and over gRPC it is UNAUTHENTICATED", fmt.Sprint(refused))
	p.edgeCall("Mallory", "ListAccounts", denied)
	return nil
}

func (p *player) listWith(ctx context.Context, conn *grpc.ClientConn, token string) error {
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	_, err := mobilev1.NewMobileBankServiceClient(conn).ListAccounts(ctx, &mobilev1.ListAccountsRequest{})
	return dial.Explain(err)
}
