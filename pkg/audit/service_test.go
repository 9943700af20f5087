package audit

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// service is an audit service that stores what it is sent, and fails as a test wants it to.
type service struct {
	mu       sync.Mutex
	requests []*auditv1.RecordDecisionsRequest
	stored   map[string]*auditv1.Record // by run and sequence
	order    []*auditv1.Record
	streams  int

	down      bool                       // streams cannot be opened
	mute      bool                       // stores, and does not acknowledge
	cut       int                        // ends the stream after so many requests, before it acknowledges the last
	refuse    func(*auditv1.Record) bool // what is not taken
	stalled   bool                       // does not read
	overstate int64                      // acknowledges so many more than were sent
}

func (s *service) set(f func()) { s.mu.Lock(); defer s.mu.Unlock(); f() }

func (s *service) RecordDecisions(ctx context.Context, _ ...grpc.CallOption) (stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams++
	if s.down {
		return nil, status.Error(codes.Unavailable, "down")
	}
	return &fakeStream{ctx: ctx, service: s, acks: make(chan int64, 10000), failed: make(chan struct{})}, nil
}

func (s *service) ListDecisions(context.Context, *auditv1.ListDecisionsRequest, ...grpc.CallOption) (*auditv1.ListDecisionsResponse, error) {
	panic("not used")
}

func (s *service) WatchDecisions(context.Context, *auditv1.WatchDecisionsRequest, ...grpc.CallOption) (grpc.ServerStreamingClient[auditv1.WatchDecisionsResponse], error) {
	panic("not used")
}

// texts returns what is stored, in order: a decision's method, or how many were lost.
func (s *service) texts() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var texts []string
	for _, r := range s.order {
		texts = append(texts, text(r))
	}
	return texts
}

func text(r *auditv1.Record) string {
	if gap := r.GetGap(); gap != nil {
		return fmt.Sprintf("lost %d", gap.GetLostCount())
	}
	return r.GetDecision().GetMethod()
}

func (s *service) sizes() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sizes []int
	for _, r := range s.requests {
		sizes = append(sizes, len(r.GetRecords()))
	}
	return sizes
}

// take stores a request's records and returns what is acknowledged: 0 for nothing.
func (s *service) take(request *auditv1.RecordDecisionsRequest) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil && slices.ContainsFunc(request.GetRecords(), s.refuse) {
		return 0, status.Error(codes.InvalidArgument, "refused")
	}
	if s.stored == nil {
		s.stored = make(map[string]*auditv1.Record)
	}
	s.requests = append(s.requests, request)
	for _, r := range request.GetRecords() {
		key := fmt.Sprint(request.GetRunId(), r.GetSequence())
		if s.stored[key] == nil {
			s.stored[key] = r
			s.order = append(s.order, r)
		}
	}
	if s.cut--; s.cut == 0 {
		return 0, status.Error(codes.Unavailable, "cut")
	}
	if s.mute {
		return 0, nil
	}
	return request.GetRecords()[len(request.GetRecords())-1].GetSequence() + s.overstate, nil
}

type fakeStream struct {
	grpc.ClientStream
	ctx     context.Context
	service *service
	acks    chan int64
	once    sync.Once
	failed  chan struct{}
	err     error
}

func (f *fakeStream) fail(err error) { f.once.Do(func() { f.err = err; close(f.failed) }) }

func (f *fakeStream) Send(request *auditv1.RecordDecisionsRequest) error {
	f.service.mu.Lock()
	stalled := f.service.stalled
	f.service.mu.Unlock()
	if stalled {
		<-f.ctx.Done()
		return io.EOF
	}
	ack, err := f.service.take(request)
	if err != nil {
		f.fail(err)
		return io.EOF
	}
	if ack > 0 {
		f.acks <- ack
	}
	return nil
}

func (f *fakeStream) Recv() (*auditv1.RecordDecisionsResponse, error) {
	select {
	case ack := <-f.acks:
		return &auditv1.RecordDecisionsResponse{StoredSequence: ack}, nil
	case <-f.failed:
		// What was sent before the end is received before it.
		select {
		case ack := <-f.acks:
			return &auditv1.RecordDecisionsResponse{StoredSequence: ack}, nil
		default:
			return nil, f.err
		}
	case <-f.ctx.Done():
		return nil, status.FromContextError(f.ctx.Err()).Err()
	}
}

func (f *fakeStream) CloseSend() error { f.fail(io.EOF); return nil }
