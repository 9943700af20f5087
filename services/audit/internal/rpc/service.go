// Package rpc serves the audit trail as mesh.audit.v1.AuditService.
package rpc

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"

	"google.golang.org/protobuf/proto"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/pagetoken"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
	"github.com/countersign-mesh/countersign/services/audit/internal/store"
)

const (
	defaultPageSize = 50
	// watchPage is how many records a watcher holds in memory at once.
	watchPage = 200
	// defaultMaxLag is how many records a watcher may fall behind.
	defaultMaxLag = 10_000
)

// Service implements AuditService. It is safe for concurrent use. The zero value is not usable; see New.
type Service struct {
	auditv1.UnimplementedAuditServiceServer
	store  *store.Store
	log    *slog.Logger
	maxLag int64
}

// Option changes a default of New.
type Option func(*Service)

// WithMaxLag sets how many records a watcher may fall behind before it is sent away; 10,000 by default.
func WithMaxLag(n int64) Option { return func(s *Service) { s.maxLag = n } }

// New returns a Service.
func New(records *store.Store, log *slog.Logger, opts ...Option) *Service {
	s := &Service{store: records, log: log, maxLag: defaultMaxLag}
	for _, opt := range opts {
		opt(s)
	}
	return s
}

// RecordDecisions implements AuditService. Each request is one transaction, acknowledged after it was committed.
func (s *Service) RecordDecisions(stream auditv1.AuditService_RecordDecisionsServer) error {
	ctx := stream.Context()
	peer, ok := identity.FromContext(ctx)
	if !ok {
		return s.status(ctx, errNobody)
	}
	server := peer.ID.String()
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err // of the stream, with its status
		}
		s.checkClaims(ctx, server, request.GetRecords())
		stored, err := s.store.Append(ctx, server, request.GetRunId(), request.GetRecords())
		if err != nil {
			return s.status(ctx, err)
		}
		if err := stream.Send(&auditv1.RecordDecisionsResponse{StoredSequence: stored}); err != nil {
			return err
		}
	}
}

// checkClaims logs that a server names another one as the decider. It changes nothing: what is stored is whose SVID sent it, and
// refusing the record would help whoever broke into that server to leave no trace of it.
func (s *Service) checkClaims(ctx context.Context, server string, records []*auditv1.Record) {
	for _, r := range records {
		if claimed := r.GetDecision().GetServerId(); claimed != "" && claimed != server {
			s.log.WarnContext(ctx, "a server sent a decision in another's name", "server_id", server, "claimed", claimed,
				"decision_id", r.GetDecision().GetDecisionId())
		}
	}
}

// ListDecisions implements AuditService.
func (s *Service) ListDecisions(ctx context.Context, request *auditv1.ListDecisionsRequest) (*auditv1.ListDecisionsResponse, error) {
	scope, err := pageScope(request.GetFilter())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	before, err := pagetoken.Decode(scope, request.GetPageToken())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	if before == 0 {
		before = math.MaxInt64
	}
	limit := int(request.GetPageSize())
	if limit == 0 {
		limit = defaultPageSize
	}
	page, more, err := s.store.Newest(ctx, request.GetFilter(), before, limit)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	response := &auditv1.ListDecisionsResponse{Records: page}
	if more {
		response.NextPageToken = pagetoken.Encode(scope, page[len(page)-1].GetPosition())
	}
	return response, nil
}

// pageScope binds a page token to the filter that it was issued for.
func pageScope(filter *auditv1.DecisionFilter) (string, error) {
	text, err := proto.MarshalOptions{Deterministic: true}.Marshal(filter)
	return "mesh.audit.v1.AuditService/ListDecisions:" + string(text), err
}

// WatchDecisions implements AuditService. A watcher reads the store at its own pace, so that it costs one page of memory however
// slow it is.
func (s *Service) WatchDecisions(request *auditv1.WatchDecisionsRequest, stream auditv1.AuditService_WatchDecisionsServer) error {
	ctx := stream.Context()
	head, _ := s.store.Head()
	position := request.GetAfterPosition()
	if position > head {
		return s.status(ctx, errFuture)
	}
	if position == 0 && !request.GetFromStart() {
		position = head
	}
	for live := false; ; live = true {
		head, changed := s.store.Head()
		var err error
		if position, err = s.catchUp(request.GetFilter(), stream, position, head, live); err != nil {
			return s.status(ctx, err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s.status(ctx, context.Cause(ctx))
		}
	}
}

// catchUp sends what is stored after position, up to head at least, and returns where it ended. Once a watcher is live, it must
// not fall behind; before, it may read as much of the past as it likes.
func (s *Service) catchUp(filter *auditv1.DecisionFilter, stream auditv1.AuditService_WatchDecisionsServer, position, head int64, live bool) (int64, error) {
	for {
		page, more, err := s.store.After(stream.Context(), filter, position, watchPage)
		if err != nil {
			return position, err
		}
		for _, r := range page {
			if err := stream.Send(&auditv1.WatchDecisionsResponse{Record: r}); err != nil {
				return position, err
			}
			position = r.GetPosition()
		}
		if !more {
			return max(position, head), nil
		}
		if now, _ := s.store.Head(); live && now-position > s.maxLag {
			return position, errSlow
		}
	}
}
