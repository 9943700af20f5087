package workload

import (
	"time"

	workloadv1 "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/services/authority/internal/attest"
	"github.com/countersign-mesh/countersign/services/authority/internal/ca"
	"github.com/countersign-mesh/countersign/services/authority/internal/registration"
)

// FetchX509SVID sends all SVIDs of the caller, and again, whole and fresh, at half of their life, when the bundle changes, and when
// the caller's entries change (Workload API §5.2).
func (s *Server) FetchX509SVID(_ *workloadv1.X509SVIDRequest, stream grpc.ServerStreamingServer[workloadv1.X509SVIDResponse]) error {
	return s.follow(stream.Context(), "FetchX509SVID", s.authority.X509Changed,
		func(process attest.Process, entries []*registration.Entry) (time.Time, error) {
			issue, err := s.issue(process, entries)
			if err != nil {
				return time.Time{}, err
			}
			return renewal(issue.Issued, issue.NotAfter), stream.Send(x509Response(issue, entries))
		})
}

// issue makes the SVIDs of one message and notes each: what an authority signs must be known.
func (s *Server) issue(process attest.Process, entries []*registration.Entry) (*ca.Issue, error) {
	requests := make([]ca.Request, len(entries))
	for i, entry := range entries {
		requests[i] = ca.Request{ID: entry.ID, DNSNames: entry.DNSNames, TTL: entry.TTL}
	}
	issue, err := s.authority.IssueX509(requests...)
	if err != nil {
		return nil, err
	}
	s.metrics.x509Issued.Add(float64(len(issue.SVIDs)))
	for _, svid := range issue.SVIDs {
		attrs := []any{"spiffe_id", svid.ID.String(), "serial", svid.Serial, "not_after", svid.NotAfter}
		attrs = append(attrs, whence(process)...)
		if process.Path != "" {
			attrs = append(attrs, "path", process.Path)
		}
		s.log.Info("issued an X.509-SVID", attrs...)
	}
	return issue, nil
}

func x509Response(issue *ca.Issue, entries []*registration.Entry) *workloadv1.X509SVIDResponse {
	response := &workloadv1.X509SVIDResponse{}
	for i, svid := range issue.SVIDs {
		response.Svids = append(response.Svids, &workloadv1.X509SVID{
			SpiffeId: svid.ID.String(), X509Svid: svid.Certificates, X509SvidKey: svid.Key,
			Bundle: issue.Bundle, Hint: entries[i].Hint,
		})
	}
	return response
}

// FetchX509Bundles sends the trust domain's bundle, and again when it changes (Workload API §5.2).
func (s *Server) FetchX509Bundles(
	_ *workloadv1.X509BundlesRequest, stream grpc.ServerStreamingServer[workloadv1.X509BundlesResponse],
) error {
	return s.follow(stream.Context(), "FetchX509Bundles", s.authority.X509Changed,
		func(attest.Process, []*registration.Entry) (time.Time, error) {
			return time.Time{}, stream.Send(&workloadv1.X509BundlesResponse{
				Bundles: map[string][]byte{s.authority.TrustDomain().IDString(): s.authority.X509Bundle()},
			})
		})
}
