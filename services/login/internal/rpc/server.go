// Package rpc serves the mesh's side of the authorization server: bank.login.v1.
package rpc

import (
	"context"
	"errors"
	"log/slog"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/pkg/identity"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
	"github.com/countersign-mesh/countersign/services/login/internal/customer"
	"github.com/countersign-mesh/countersign/services/login/internal/device"
	"github.com/countersign-mesh/countersign/services/login/internal/revocation"
	"github.com/countersign-mesh/countersign/services/login/internal/transaction"
)

// Parts is what the services are made of.
type Parts struct {
	Customers    *customer.Register
	Devices      *device.Registry
	Transactions *transaction.Service
	Revocations  *revocation.Feed
	// AccessKeys and TransactionKeys return JWK Sets.
	AccessKeys, TransactionKeys func() []byte
	// Authorities are the device authority's certificates, in DER.
	Authorities [][]byte
	Log         *slog.Logger
}

// Register registers the three services.
func Register(r grpc.ServiceRegistrar, p Parts) {
	loginv1.RegisterCustomerServiceServer(r, &customers{Parts: p})
	loginv1.RegisterKeyServiceServer(r, &verification{Parts: p})
	loginv1.RegisterTransactionTokenServiceServer(r, &transactions{Parts: p})
}

type customers struct {
	loginv1.UnimplementedCustomerServiceServer
	Parts
}

// RegisterCustomer implements CustomerService.
func (s *customers) RegisterCustomer(ctx context.Context, req *loginv1.RegisterCustomerRequest) (*loginv1.RegisterCustomerResponse, error) {
	secret, err := s.Customers.Add(ctx, req.GetCustomerId(), req.GetUsername(), req.GetPassword())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	s.Log.InfoContext(ctx, "a customer is registered", "customer", req.GetCustomerId())
	return &loginv1.RegisterCustomerResponse{OtpSecret: secret}, nil
}

// ListDevices implements CustomerService.
func (s *customers) ListDevices(ctx context.Context, req *loginv1.ListDevicesRequest) (*loginv1.ListDevicesResponse, error) {
	devices, err := s.Devices.List(ctx, req.GetCustomerId())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	response := &loginv1.ListDevicesResponse{}
	for _, d := range devices {
		response.Devices = append(response.Devices, message(d))
	}
	return response, nil
}

// RevokeDevice implements CustomerService.
func (s *customers) RevokeDevice(ctx context.Context, req *loginv1.RevokeDeviceRequest) (*loginv1.RevokeDeviceResponse, error) {
	d, err := s.Devices.Revoke(ctx, req.GetDeviceId())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	s.Revocations.Changed()
	s.Log.InfoContext(ctx, "a device is revoked", "device", d.ID, "customer", d.CustomerID, "since", d.Revoked)
	return &loginv1.RevokeDeviceResponse{Device: message(d)}, nil
}

func message(d device.Device) *loginv1.Device {
	m := &loginv1.Device{
		DeviceId: d.ID, Name: d.Name, CertificateSerial: d.Serial, EnrolTime: timestamppb.New(d.Enrolled), ExpireTime: timestamppb.New(d.Expires),
	}
	if !d.Revoked.IsZero() {
		m.RevokeTime = timestamppb.New(d.Revoked)
	}
	return m
}

type verification struct {
	loginv1.UnimplementedKeyServiceServer
	Parts
}

// GetEdgeKeys implements KeyService.
func (s *verification) GetEdgeKeys(context.Context, *loginv1.GetEdgeKeysRequest) (*loginv1.GetEdgeKeysResponse, error) {
	return &loginv1.GetEdgeKeysResponse{AccessTokenKeys: s.AccessKeys(), DeviceAuthorities: s.Authorities}, nil
}

// GetTransactionKeys implements KeyService.
func (s *verification) GetTransactionKeys(context.Context, *loginv1.GetTransactionKeysRequest) (*loginv1.GetTransactionKeysResponse, error) {
	return &loginv1.GetTransactionKeysResponse{Keys: s.TransactionKeys()}, nil
}

// WatchRevocations implements KeyService.
func (s *verification) WatchRevocations(_ *loginv1.WatchRevocationsRequest, stream grpc.ServerStreamingServer[loginv1.WatchRevocationsResponse]) error {
	var sent error
	err := s.Revocations.Follow(stream.Context(), func(revoked []revocation.Revocation) error {
		response := &loginv1.WatchRevocationsResponse{}
		for _, r := range revoked {
			response.Revocations = append(response.Revocations, revocationMessage(r))
		}
		sent = stream.Send(response)
		return sent
	})
	switch {
	case sent != nil: // a status already
		return sent
	case stream.Context().Err() != nil: // the watcher went, or the server drains and says so itself
		return context.Cause(stream.Context())
	default:
		return s.status(stream.Context(), err)
	}
}

func revocationMessage(r revocation.Revocation) *loginv1.Revocation {
	m := &loginv1.Revocation{ExpireTime: timestamppb.New(r.Expires)}
	switch r.Kind {
	case revocation.Token:
		m.Subject = &loginv1.Revocation_TokenId{TokenId: r.Subject}
	case revocation.Session:
		m.Subject = &loginv1.Revocation_SessionId{SessionId: r.Subject}
	case revocation.Certificate:
		m.Subject = &loginv1.Revocation_CertificateSerial{CertificateSerial: r.Subject}
	}
	return m
}

type transactions struct {
	loginv1.UnimplementedTransactionTokenServiceServer
	Parts
}

// IssueTransactionToken implements TransactionTokenService.
func (s *transactions) IssueTransactionToken(ctx context.Context, req *loginv1.IssueTransactionTokenRequest) (*loginv1.IssueTransactionTokenResponse, error) {
	by, err := caller(ctx)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	token, err := s.Transactions.Issue(ctx, by, req.GetAccessToken(), req.GetScope(), req.GetContext())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return &loginv1.IssueTransactionTokenResponse{TransactionToken: token.Raw, ExpireTime: timestamppb.New(token.Expires)}, nil
}

// RenewTransactionToken implements TransactionTokenService.
func (s *transactions) RenewTransactionToken(ctx context.Context, req *loginv1.RenewTransactionTokenRequest) (*loginv1.RenewTransactionTokenResponse, error) {
	by, err := caller(ctx)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	token, err := s.Transactions.Renew(ctx, by, req.GetTransactionId())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return &loginv1.RenewTransactionTokenResponse{TransactionToken: token.Raw, ExpireTime: timestamppb.New(token.Expires)}, nil
}

// caller returns who calls, for the token to name: the identity that the connection proves, and nothing that a request says.
func caller(ctx context.Context) (string, error) {
	peer, ok := identity.FromContext(ctx)
	if !ok {
		return "", errors.New("the caller has no identity")
	}
	return peer.ID.String(), nil
}
