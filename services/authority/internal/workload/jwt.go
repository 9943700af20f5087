package workload

import (
	"context"
	"fmt"
	"slices"
	"time"

	workloadv1 "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/countersign-mesh/countersign/services/authority/internal/attest"
	"github.com/countersign-mesh/countersign/services/authority/internal/registration"
)

// FetchJWTSVID makes JWT-SVIDs for the caller and one or more audiences: of all its identities, or of the one that is asked for
// (Workload API §6.2).
func (s *Server) FetchJWTSVID(ctx context.Context, req *workloadv1.JWTSVIDRequest) (*workloadv1.JWTSVIDResponse, error) {
	if len(req.GetAudience()) == 0 || slices.Contains(req.GetAudience(), "") {
		return nil, fmt.Errorf("%w: an audience must be given, and none may be empty", errRequest)
	}
	process, entries, err := s.entitled(ctx)
	if err != nil {
		return nil, err
	}
	if entries, err = choose(entries, req.GetSpiffeId()); err != nil {
		return nil, err
	}
	response := &workloadv1.JWTSVIDResponse{}
	for _, entry := range entries {
		token, err := s.authority.IssueJWT(entry.ID, req.GetAudience())
		if err != nil {
			return nil, err
		}
		s.metrics.jwtIssued.Inc()
		attrs := []any{"spiffe_id", entry.ID.String(), "audience", req.GetAudience()}
		s.log.InfoContext(ctx, "issued a JWT-SVID", append(attrs, whence(process)...)...)
		response.Svids = append(response.Svids, &workloadv1.JWTSVID{SpiffeId: entry.ID.String(), Svid: token, Hint: entry.Hint})
	}
	return response, nil
}

// choose returns the entries of one SPIFFE ID; all when none is asked for.
func choose(entries []*registration.Entry, text string) ([]*registration.Entry, error) {
	if text == "" {
		return entries, nil
	}
	id, err := spiffeid.FromString(text)
	if err != nil {
		return nil, fmt.Errorf("%w: spiffe_id: %w", errRequest, err)
	}
	var chosen []*registration.Entry
	for _, entry := range entries {
		if entry.ID == id {
			chosen = append(chosen, entry)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("%w: the caller has no identity %s", errNoIdentity, id)
	}
	return chosen, nil
}

// FetchJWTBundles sends the trust domain's JWT bundle, and again when it changes (Workload API §6.2).
func (s *Server) FetchJWTBundles(
	_ *workloadv1.JWTBundlesRequest, stream grpc.ServerStreamingServer[workloadv1.JWTBundlesResponse],
) error {
	return s.follow(stream.Context(), "FetchJWTBundles", s.authority.JWTChanged,
		func(attest.Process, []*registration.Entry) (time.Time, error) {
			document, err := s.authority.JWTBundle()
			if err != nil {
				return time.Time{}, err
			}
			return time.Time{}, stream.Send(&workloadv1.JWTBundlesResponse{
				Bundles: map[string][]byte{s.authority.TrustDomain().IDString(): document},
			})
		})
}

// ValidateJWTSVID says whose a JWT-SVID is, if it is for the given audience (Workload API §6.2).
func (s *Server) ValidateJWTSVID(
	ctx context.Context, req *workloadv1.ValidateJWTSVIDRequest,
) (*workloadv1.ValidateJWTSVIDResponse, error) {
	if req.GetAudience() == "" || req.GetSvid() == "" {
		return nil, fmt.Errorf("%w: audience and svid must be given", errRequest)
	}
	if _, _, err := s.entitled(ctx); err != nil {
		return nil, err
	}
	id, claims, err := s.authority.ValidateJWT(req.GetSvid(), req.GetAudience())
	if err != nil {
		return nil, err
	}
	encoded, err := structpb.NewStruct(claims)
	if err != nil {
		return nil, fmt.Errorf("encode the claims of a JWT-SVID: %w", err)
	}
	return &workloadv1.ValidateJWTSVIDResponse{SpiffeId: id.String(), Claims: encoded}, nil
}
