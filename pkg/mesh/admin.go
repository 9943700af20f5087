package mesh

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/pagetoken"
	"github.com/countersign-mesh/countersign/pkg/transport"
	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
)

// admin tells an operator about the connections and the policy of this process. It has no state of its own.
type admin struct {
	adminv1.UnimplementedAdminServiceServer
	conns  *transport.Registry
	policy *authz.File
}

// newAdmin returns the AdminService of a process. It is safe for concurrent use.
func newAdmin(conns *transport.Registry, policy *authz.File) adminv1.AdminServiceServer {
	return &admin{conns: conns, policy: policy}
}

const (
	defaultPageSize = 100
	// connectionPages binds a page token to its list.
	connectionPages = "mesh.admin.v1.AdminService/ListConnections"
	// maxCutsBytes bounds the cuts of one response. A thousand of usual length are a third of it. But a SPIFFE ID may have 2,048 bytes (SPIFFE
	// ID §2.3) and comes twice in a cut, so that a thousand could be more than the 4 MiB that a gRPC client takes, and nobody would see any.
	maxCutsBytes = 1 << 20
)

// ListConnections implements AdminService. A page goes on behind the last connection of the one before, by the order of their opening: what
// is closed meanwhile makes no other one come twice or never.
func (a *admin) ListConnections(_ context.Context, request *adminv1.ListConnectionsRequest) (*adminv1.ListConnectionsResponse, error) {
	after, err := pagetoken.Decode(connectionPages, request.GetPageToken())
	if err != nil || after < 0 {
		return nil, status.Error(codes.InvalidArgument, "page_token was not issued for this list")
	}
	limit := int(request.GetPageSize())
	if limit == 0 {
		limit = defaultPageSize
	}
	response := &adminv1.ListConnectionsResponse{PolicyVersion: a.policy.Policy().Version()}
	var last uint64
	for _, c := range a.conns.Conns() {
		if c.Seq <= uint64(after) {
			continue
		}
		if len(response.GetConnections()) == limit {
			response.NextPageToken = pagetoken.Encode(connectionPages, int64(last))
			break
		}
		response.Connections = append(response.Connections, connection(c))
		last = c.Seq
	}
	return response, nil
}

// ListCuts implements AdminService. It has no pages: where not all fit in maxCutsBytes, the earliest are left out.
func (a *admin) ListCuts(_ context.Context, request *adminv1.ListCutsRequest) (*adminv1.ListCutsResponse, error) {
	since := request.GetSince()
	if since != nil {
		if err := since.CheckValid(); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "since: %v", err)
		}
	}
	// The version first: who waits for it then sees at least the cuts of that moment.
	response := &adminv1.ListCutsResponse{PolicyVersion: a.policy.Policy().Version()}
	size := 0
	for _, c := range a.conns.Cuts() {
		if since != nil && c.Time.Before(since.AsTime()) {
			continue
		}
		message := cut(c)
		if size += proto.Size(message); size > maxCutsBytes {
			break
		}
		response.Cuts = append(response.Cuts, message)
	}
	return response, nil
}

func cut(c transport.Cut) *adminv1.Cut {
	return &adminv1.Cut{Connection: connection(c.Conn), Reason: reason(c.Reason), Detail: c.Detail, CutTime: timestamppb.New(c.Time)}
}

func connection(c transport.Conn) *adminv1.Connection {
	message := &adminv1.Connection{
		PeerId:        c.Peer.ID.String(),
		PeerSerial:    c.Peer.Serial,
		Direction:     adminv1.Direction_DIRECTION_OUTBOUND,
		RemoteAddress: c.RemoteAddr,
		OpenTime:      timestamppb.New(c.Opened),
		ExpireTime:    timestamppb.New(c.Expires),
		Calls:         int64(c.Calls), //nolint:gosec // counts calls, from 0
	}
	if c.Direction == transport.Inbound {
		message.Direction = adminv1.Direction_DIRECTION_INBOUND
	}
	if n := len(c.Peer.Chain); n > 0 {
		message.PeerAuthority = identity.AuthorityOf(c.Peer.Chain[n-1])
	}
	return message
}

func reason(r transport.Reason) adminv1.CutReason {
	switch r {
	case transport.Expired:
		return adminv1.CutReason_CUT_REASON_EXPIRED
	case transport.Untrusted:
		return adminv1.CutReason_CUT_REASON_UNTRUSTED
	case transport.Revoked:
		return adminv1.CutReason_CUT_REASON_REVOKED
	case transport.OwnIdentity:
		return adminv1.CutReason_CUT_REASON_OWN_IDENTITY
	default:
		return adminv1.CutReason_CUT_REASON_UNSPECIFIED
	}
}
