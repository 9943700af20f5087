// Package own records what the audit service itself decides about its callers. It goes the way that every other server's decisions
// go (bounded, in order, nothing lost unnoticed), and ends in the store beside it instead of in a call: a call to itself would
// be a decision again.
package own

import (
	"context"
	"io"

	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/audit"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// Store is what keeps the records.
type Store interface {
	// Append stores records of a run of a server, and returns the sequence up to which that run is stored.
	Append(ctx context.Context, serverID, runID string, records []*auditv1.Record) (int64, error)
}

// NewQueue returns a queue whose records are stored in the name of serverID. Its Run must have ended before the store is closed.
func NewQueue(serverID string, store Store, opts ...audit.Option) *audit.Queue {
	return audit.NewQueue(&client{serverID: serverID, store: store}, opts...)
}

// client is an audit service without a way to it. The queue uses RecordDecisions alone.
type client struct {
	auditv1.AuditServiceClient
	serverID string
	store    Store
}

// RecordDecisions implements auditv1.AuditServiceClient.
func (c *client) RecordDecisions(ctx context.Context, _ ...grpc.CallOption) (auditv1.AuditService_RecordDecisionsClient, error) {
	return &stream{ctx: ctx, client: c, stored: make(chan int64), closed: make(chan struct{})}, nil
}

type stream struct {
	grpc.ClientStream
	ctx    context.Context //nolint:containedctx // as in gRPC, it is the stream's own
	client *client
	stored chan int64
	closed chan struct{}
}

// Send stores the records and leaves the acknowledgement to Recv.
func (s *stream) Send(request *auditv1.RecordDecisionsRequest) error {
	stored, err := s.client.store.Append(s.ctx, s.client.serverID, request.GetRunId(), request.GetRecords())
	if err != nil {
		return err
	}
	select {
	case s.stored <- stored:
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

// Recv returns the next acknowledgement.
func (s *stream) Recv() (*auditv1.RecordDecisionsResponse, error) {
	select {
	case stored := <-s.stored:
		return &auditv1.RecordDecisionsResponse{StoredSequence: stored}, nil
	case <-s.closed:
		return nil, io.EOF
	case <-s.ctx.Done():
		return nil, context.Cause(s.ctx)
	}
}

// CloseSend ends the stream.
func (s *stream) CloseSend() error {
	close(s.closed)
	return nil
}
