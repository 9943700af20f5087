package spire

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a SPIRE server as far as we use one: it keeps entries, and refuses what SPIRE refuses.
type fake struct {
	bundlev1.UnimplementedBundleServer
	entryv1.UnimplementedEntryServer

	mu      sync.Mutex
	bundle  *types.Bundle
	entries []*types.Entry
	refuse  codes.Code // of the creation of an entry
	deny    error      // of all removals
	calls   []string
}

// serve serves the fake on a unix socket until the test ends.
func (f *fake) serve(t *testing.T) *Server {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	f.listen(t, socket)
	return openAt(t, socket)
}

func (f *fake) listen(t *testing.T, socket string) {
	t.Helper()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	bundlev1.RegisterBundleServer(server, f)
	entryv1.RegisterEntryServer(server, f)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

func openAt(t *testing.T, socket string) *Server {
	t.Helper()
	s, err := OpenServer(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (f *fake) call(name string) {
	f.calls = append(f.calls, name)
}

func (f *fake) GetBundle(context.Context, *bundlev1.GetBundleRequest) (*types.Bundle, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bundle == nil {
		return nil, status.Error(codes.NotFound, "bundle not found")
	}
	return f.bundle, nil
}

// ListEntries gives one entry a page.
func (f *fake) ListEntries(_ context.Context, r *entryv1.ListEntriesRequest) (*entryv1.ListEntriesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.entries {
		if e.GetId() > r.GetPageToken() && proto.Equal(e.GetParentId(), r.GetFilter().GetByParentId()) {
			return &entryv1.ListEntriesResponse{Entries: []*types.Entry{e}, NextPageToken: e.GetId()}, nil
		}
	}
	return &entryv1.ListEntriesResponse{}, nil
}

func (f *fake) BatchCreateEntry(_ context.Context, r *entryv1.BatchCreateEntryRequest) (*entryv1.BatchCreateEntryResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	response := &entryv1.BatchCreateEntryResponse{}
	for _, e := range r.GetEntries() {
		code := f.refuse
		if slices.ContainsFunc(f.entries, func(o *types.Entry) bool {
			return key(o) == key(e) && proto.Equal(o.GetParentId(), e.GetParentId())
		}) {
			code = codes.AlreadyExists
		}
		if code == codes.OK {
			f.call("create")
			f.entries = append(f.entries, proto.CloneOf(e))
		}
		response.Results = append(response.Results, &entryv1.BatchCreateEntryResponse_Result{Status: &types.Status{Code: int32(code), Message: "told to"}})
	}
	slices.SortFunc(f.entries, func(a, b *types.Entry) int { return slices.Compare([]byte(a.GetId()), []byte(b.GetId())) })
	return response, nil
}

func (f *fake) BatchUpdateEntry(_ context.Context, r *entryv1.BatchUpdateEntryRequest) (*entryv1.BatchUpdateEntryResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	response := &entryv1.BatchUpdateEntryResponse{}
	for _, e := range r.GetEntries() {
		i := slices.IndexFunc(f.entries, func(o *types.Entry) bool { return o.GetId() == e.GetId() })
		if i < 0 {
			return nil, status.Error(codes.NotFound, "no such entry")
		}
		f.call("update")
		masked(f.entries[i], e, r.GetInputMask())
		f.entries[i].RevisionNumber++
		response.Results = append(response.Results, &entryv1.BatchUpdateEntryResponse_Result{Status: &types.Status{}})
	}
	return response, nil
}

// masked sets those fields of an entry that the mask has, which are called as those of an entry.
func masked(to, from *types.Entry, mask *types.EntryMask) {
	fields := to.ProtoReflect().Descriptor().Fields()
	mask.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		same := fields.ByName(field.Name())
		if from.ProtoReflect().Has(same) {
			to.ProtoReflect().Set(same, from.ProtoReflect().Get(same))
		} else {
			to.ProtoReflect().Clear(same)
		}
		return true
	})
}

func (f *fake) BatchDeleteEntry(_ context.Context, r *entryv1.BatchDeleteEntryRequest) (*entryv1.BatchDeleteEntryResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.deny != nil {
		return nil, f.deny
	}
	response := &entryv1.BatchDeleteEntryResponse{}
	for _, id := range r.GetIds() {
		f.call("delete")
		f.entries = slices.DeleteFunc(f.entries, func(e *types.Entry) bool { return e.GetId() == id })
		response.Results = append(response.Results, &entryv1.BatchDeleteEntryResponse_Result{Id: id, Status: &types.Status{}})
	}
	return response, nil
}
