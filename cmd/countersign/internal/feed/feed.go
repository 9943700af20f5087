// Package feed reads the audit trail from the audit service, in order, and goes on where it was after a break.
package feed

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// A feed that broke is opened again after minBackoff, then twice that, up to maxBackoff.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// Head returns the position of the trail's last record, 0 when there is none.
func Head(ctx context.Context, client auditv1.AuditServiceClient) (int64, error) {
	response, err := client.ListDecisions(ctx, &auditv1.ListDecisionsRequest{PageSize: 1})
	if err != nil || len(response.GetRecords()) == 0 {
		return 0, err
	}
	return response.GetRecords()[0].GetPosition(), nil
}

// Feed is what Follow reads.
type Feed struct {
	Client auditv1.AuditServiceClient
	// Filter chooses records; all when it is nil.
	Filter *auditv1.DecisionFilter
	// Broken is told, unless it is nil, that a feed failed again right after it was opened again.
	Broken func(err error, position int64)
}

// Follow calls each with every record after the position, until ctx ends or each returns an error, which is returned. The service ends a
// feed when it stops, when the connection has become as old as it may, and when records are made faster than they are read: Follow goes
// on after the last record then. Every other failure is returned.
func (f Feed) Follow(ctx context.Context, after int64, each func(*auditv1.StoredRecord) error) error {
	backoff := minBackoff
	for {
		opened := time.Now()
		var err error
		after, err = f.once(ctx, after, each)
		if !resumable(err) {
			return err
		}
		if time.Since(opened) > maxBackoff {
			backoff = minBackoff
		} else if f.Broken != nil && backoff > minBackoff {
			f.Broken(err, after)
		}
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// once reads one feed to its end and returns where that was.
func (f Feed) once(ctx context.Context, after int64, each func(*auditv1.StoredRecord) error) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // the stream is left in the middle when each has had enough
	stream, err := f.Client.WatchDecisions(ctx, &auditv1.WatchDecisionsRequest{Filter: f.Filter, AfterPosition: after, FromStart: after == 0})
	if err != nil {
		return after, err
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return after, err
		}
		if err := each(response.GetRecord()); err != nil {
			return after, err
		}
		after = response.GetRecord().GetPosition()
	}
}

// resumable reports whether err is how a feed ends that is good to be opened again.
func resumable(err error) bool {
	s, ok := status.FromError(err)
	return ok && (s.Code() == codes.Unavailable || s.Code() == codes.ResourceExhausted)
}
