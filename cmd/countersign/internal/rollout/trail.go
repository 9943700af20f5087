package rollout

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

const (
	// openBound is how long it may take until the decisions are seen to come.
	openBound = 5 * time.Second
	// lostBound is how long they may stay away before nobody can say any more what the new policy does. A stream ends whenever an SVID or a
	// connection does, and goes on with the next.
	lostBound     = 5 * time.Second
	againInterval = 100 * time.Millisecond
	headInterval  = 50 * time.Millisecond
)

type stream = grpc.ServerStreamingClient[auditv1.WatchDecisionsResponse]

// trail is the decisions of the mesh from a moment on, none left out.
type trail struct {
	client auditv1.AuditServiceClient
	// after is the position of the last record that was read.
	after  int64
	stream stream
	close  context.CancelFunc
}

// openTrail returns the decisions from now on. It has seen one come: a stream that is open proves nothing, as gRPC's servers say nothing on
// it before there is something to say.
func openTrail(ctx context.Context, client auditv1.AuditServiceClient) (*trail, error) {
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(openBound, cancel)
	defer late.Stop()
	t := &trail{client: client, close: cancel}
	err := t.open(ctx)
	if err == nil && !late.Stop() {
		err = context.DeadlineExceeded
	}
	if err != nil {
		cancel()
		return nil, err
	}
	return t, nil
}

func (t *trail) open(ctx context.Context) error {
	head, err := head(ctx, t.client)
	if err != nil {
		return fmt.Errorf("list the last decision: %w", err)
	}
	t.after = head - 1
	if t.stream, err = t.watch(ctx); err != nil {
		return fmt.Errorf("watch the decisions: %w", err)
	}
	if _, err := t.next(); err != nil {
		return fmt.Errorf("watch the decisions: %w", err)
	}
	return nil
}

// head returns the position of the last decision, once there are two: to watch after position 0 means to watch from now on.
func head(ctx context.Context, client auditv1.AuditServiceClient) (int64, error) {
	ticker := time.NewTicker(headInterval)
	defer ticker.Stop()
	for {
		response, err := client.ListDecisions(ctx, &auditv1.ListDecisionsRequest{PageSize: 1})
		if err != nil {
			return 0, err
		}
		for _, r := range response.GetRecords() {
			if r.GetPosition() > 1 {
				return r.GetPosition(), nil
			}
		}
		select { // each question is a decision itself
		case <-ctx.Done():
			return 0, errors.New("the audit service has no decisions, not even on this question")
		case <-ticker.C:
		}
	}
}

func (t *trail) watch(ctx context.Context) (stream, error) {
	return t.client.WatchDecisions(ctx, &auditv1.WatchDecisionsRequest{AfterPosition: t.after})
}

func (t *trail) next() (*auditv1.StoredRecord, error) {
	response, err := t.stream.Recv()
	if err != nil {
		return nil, err
	}
	t.after = response.GetRecord().GetPosition()
	return response.GetRecord(), nil
}

// each hands over each record until ctx ends, and returns nil then. It fails once the trail is lost for good, or no stream was to be had for
// lostBound. A stream on which nothing comes looks like a mesh in which nothing happens; who must know asks for the head at the end.
func (t *trail) each(ctx context.Context, do func(*auditv1.StoredRecord)) error {
	stop := context.AfterFunc(ctx, t.close)
	defer stop()
	var lost time.Time // zero while it is not
	for opened := time.Now(); ; opened = time.Now() {
		record, err := t.next()
		for ; err == nil; record, err = t.next() {
			do(record)
			lost = time.Time{}
		}
		if ctx.Err() != nil {
			return nil // that is how it ends
		}
		if lost.IsZero() || opened.Sub(lost) < time.Since(opened) { // the stream was there for longer than it was away
			lost = time.Now()
		}
		if err := t.again(ctx, err, lost); err != nil {
			return err
		}
	}
}

// again opens the stream anew where it ended with err.
func (t *trail) again(ctx context.Context, err error, lost time.Time) error {
	ticker := time.NewTicker(againInterval)
	defer ticker.Stop()
	for {
		if final(err) || time.Since(lost) > lostBound {
			return fmt.Errorf("the decisions cannot be watched any more: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if t.stream, err = t.watch(ctx); err == nil {
			return nil
		}
	}
}

// final reports whether opening the stream again makes no sense.
func final(err error) bool {
	switch status.Code(err) {
	case codes.PermissionDenied, codes.Unimplemented, codes.InvalidArgument:
		return true
	default:
		return false
	}
}
