package rollout_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rollout"
	"github.com/countersign-mesh/countersign/pkg/policy"
	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const rules = `trust_domain: bank.test
services:
  a.v1.A:
    methods:
      Get: {allow: [{peer: /b}, {peer: /c}]}
      Put: {allow: [{peer: /b, when: request.x > 1}]}
  mesh.admin.v1.AdminService:
    methods:
      GetPolicy: {allow: [{peer: /operator}]}
  mesh.audit.v1.AuditService:
    methods:
      WatchDecisions: {allow: [{peer: /operator}]}
`

const stuck = "stuck"

const get, put = "/a.v1.A/Get", "/a.v1.A/Put"

// world is a policy file, servers that read it and an audit service, without a network. It is safe for concurrent use.
type world struct {
	path    string
	changed string // the text that is to take the file's place
	r       rollout.Rollout
	said    strings.Builder
	// watching is called once the decisions are watched.
	watching func()

	mu sync.Mutex
	// force is the version that each server has in force. refuses says why one does not take a text: stuck when it has not even looked.
	force   map[string]string
	refuses func(server, text string) (failure string)
	// records are what the audit service has, and news is closed when there is another.
	records []*auditv1.StoredRecord
	news    chan struct{}
	// down is what the audit service answers to everything; deaf has it send nothing on a stream any more.
	down, noWatch error
	// Each question is a decision, unless nothing at all is recorded.
	deaf, quiet bool
	streams     int
}

// newWorld has a file with the text before, and a change to the text after.
func newWorld(t *testing.T, before, after string) *world {
	t.Helper()
	w := &world{path: filepath.Join(t.TempDir(), "p.yaml"), changed: after, force: make(map[string]string), news: make(chan struct{})}
	w.refuses = func(string, string) string { return "" }
	w.write(t, before)
	w.record(&auditv1.StoredRecord{})
	change, err := rollout.Prepare(w.path, "new.yaml", []byte(after), protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	w.r = rollout.Rollout{
		Change: change, Servers: []rollout.Server{{Name: "one", Conn: server{w, "one"}}, {Name: "two", Conn: server{w, "two"}}},
		Self: spiffeid.RequireFromString("spiffe://bank.test/operator"), Audit: auditService{w: w},
		Say: func(format string, args ...any) {
			fmt.Fprintf(&w.said, format, args...)
			if strings.HasPrefix(format, "Watching") && w.watching != nil {
				w.watching()
			}
		},
	}
	return w
}

func (w *world) write(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(w.path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// files are the names beside the policy file, and the texts.
func (w *world) files(t *testing.T) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(w.path))
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(filepath.Dir(w.path), e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(text)
	}
	return files
}

func (w *world) record(r *auditv1.StoredRecord) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r.Position = int64(len(w.records)) + 1
	w.records = append(w.records, r)
	close(w.news)
	w.news = make(chan struct{})
}

// set changes how the world is.
func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// denied records n decisions that deny a call.
func (w *world) denied(n int, peer, method, version string) {
	for i := range n {
		w.record(&auditv1.StoredRecord{Event: &auditv1.StoredRecord_Decision{Decision: &auditv1.Decision{
			DecisionId: fmt.Sprintf("%s%d", strings.TrimPrefix(peer, "spiffe://bank.test/"), i), PeerId: peer, Method: method,
			Verdict: auditv1.Verdict_VERDICT_DENIED, PolicyVersion: version,
		}}})
	}
}

// server is an AdminService that reads the file whenever it is asked.
type server struct {
	w    *world
	name string
}

func (s server) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "no stream here")
}

func (s server) Invoke(ctx context.Context, _ string, _, reply any, _ ...grpc.CallOption) error {
	if err := ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	text, err := os.ReadFile(s.w.path)
	if err != nil {
		return err
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	response := &adminv1.GetPolicyResponse{Failure: s.w.refuses(s.name, string(text))}
	switch response.GetFailure() {
	case stuck:
		response.Failure = ""
	case "":
		read, err := policy.Parse(s.w.path, text)
		if err != nil {
			return err
		}
		s.w.force[s.name] = read.Version()
	}
	response.PolicyVersion = s.w.force[s.name]
	proto.Merge(reply.(proto.Message), response) //nolint:errcheck,forcetypeassert // nothing else is asked
	return nil
}

// auditService is the audit service.
type auditService struct {
	auditv1.AuditServiceClient
	w *world
}

func (a auditService) ListDecisions(ctx context.Context, _ *auditv1.ListDecisionsRequest, _ ...grpc.CallOption) (*auditv1.ListDecisionsResponse, error) {
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	a.w.mu.Lock()
	down, last := a.w.down, a.w.records[len(a.w.records)-1]
	quiet := a.w.quiet
	a.w.mu.Unlock()
	if !quiet {
		a.w.record(&auditv1.StoredRecord{})
	}
	return &auditv1.ListDecisionsResponse{Records: []*auditv1.StoredRecord{last}}, down
}

func (a auditService) WatchDecisions(ctx context.Context, request *auditv1.WatchDecisionsRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[auditv1.WatchDecisionsResponse], error) {
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	a.w.streams++
	if request.GetAfterPosition() == 0 {
		return nil, status.Error(codes.Internal, "from now on is not what is asked for")
	}
	return &stream{ctx: ctx, w: a.w, after: request.GetAfterPosition(), generation: a.w.streams}, nil
}

type stream struct {
	grpc.ClientStream
	ctx        context.Context
	w          *world
	after      int64
	generation int
}

// Recv returns the next record. The stream ends when the service goes down.
func (s *stream) Recv() (*auditv1.WatchDecisionsResponse, error) {
	for {
		s.w.mu.Lock()
		news, down, noWatch, deaf, ended := s.w.news, s.w.down, s.w.noWatch, s.w.deaf, s.w.streams != s.generation
		var next *auditv1.StoredRecord
		if s.after < int64(len(s.w.records)) {
			next = s.w.records[s.after]
		}
		s.w.mu.Unlock()
		switch {
		case down != nil || noWatch != nil:
			return nil, status.Error(status.Code(down)+status.Code(noWatch), "no")
		case ended:
			return nil, status.Error(codes.Unavailable, "the connection has ended")
		case next != nil && !deaf:
			s.after = next.GetPosition()
			return &auditv1.WatchDecisionsResponse{Record: next}, nil
		}
		select {
		case <-news:
		case <-s.ctx.Done():
			return nil, status.FromContextError(s.ctx.Err()).Err()
		}
	}
}
