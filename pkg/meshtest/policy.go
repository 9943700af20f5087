package meshtest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/policy"
	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
)

// policyFile is the policy of a mesh.
type policyFile struct {
	path     string
	complete func(text string) string
	file     *authz.File

	setting  sync.Mutex
	watching sync.Once
}

// SetPolicy puts another policy in force and returns when it is: every call from then on is decided by it, on every server of the mesh.
// Open streams that it no longer allows, and connections of peers that it revokes, end within a second after that. text is completed as
// New does it. A policy that is wrong, or does not fit the services that are served, ends the test.
func (m *Mesh) SetPolicy(t testing.TB, text string) {
	t.Helper()
	m.setting.Lock()
	defer m.setting.Unlock()
	m.watching.Do(m.watch)
	want, err := policy.Parse(m.path, []byte(m.complete(text)))
	if err != nil {
		t.Fatalf("policy: %v", err)
	}
	failures := m.file.Status().Failures
	m.write(t, text)
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		changed := m.file.Changed()
		switch now := m.file.Status(); {
		case now.Version == want.Version():
			return
		case now.Failures > failures:
			t.Fatalf("policy: %v", now.Failure)
		}
		select {
		case <-changed:
		case <-time.After(10 * time.Millisecond): // a policy that does not fit changes nothing
		case <-late.C:
			t.Fatalf("the policy is not in force after %s", patience)
		}
	}
}

// watch follows the policy file until the test ends.
func (m *Mesh) watch() {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.file.Watch(ctx) }()
	m.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			m.t.Errorf("watch the policy: %v", err)
		}
	})
}

// write puts a policy into place whole, so that nobody reads half of it.
func (f *policyFile) write(t testing.TB, text string) {
	t.Helper()
	next := f.path + ".next"
	if err := os.WriteFile(next, []byte(f.complete(text)), 0o600); err != nil {
		t.Fatalf("write policy: %v", err)
	}
	if err := os.Rename(next, f.path); err != nil {
		t.Fatalf("write policy: %v", err)
	}
}

// standard are the services that every server of a mesh has.
func standard() []grpc.ServiceDesc {
	return []grpc.ServiceDesc{
		grpc_health_v1.Health_ServiceDesc,
		grpc_reflection_v1.ServerReflection_ServiceDesc,
		adminv1.AdminService_ServiceDesc,
	}
}

// denyStandard adds to the text of a policy the standard services that it does not name, with no peer allowed. It changes no line
// that has a rule, so that positions in errors and decisions stay right. A text that is no policy is returned as it is: whoever reads
// it says what is wrong.
func denyStandard(text string) string {
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(text), &document); err != nil || len(document.Content) == 0 {
		return text
	}
	fields := document.Content[0].Content
	for i := 0; i+1 < len(fields); i += 2 {
		services := fields[i+1]
		if fields[i].Value != "services" || services.Kind != yaml.MappingNode || len(services.Content) == 0 {
			continue
		}
		lines := strings.SplitAfter(strings.TrimSuffix(text, "\n")+"\n", "\n")
		end := len(lines) - 1 // where the field after services begins
		if i+2 < len(fields) {
			end = fields[i+2].Line - 1
		}
		return addServices(lines, end, services, missing(services))
	}
	return text
}

// addServices adds services, each written on one line, to those of a policy: on the same line or on lines of their own before line end, as
// the policy has it.
func addServices(lines []string, end int, services *yaml.Node, added []string) string {
	if services.Style&yaml.FlowStyle != 0 {
		line := []rune(lines[services.Line-1])
		for _, service := range added {
			line = slices.Insert(line, services.Column, []rune(service+", ")...) // after the brace
		}
		lines[services.Line-1] = string(line)
		return strings.Join(lines, "")
	}
	indent := strings.Repeat(" ", services.Content[0].Column-1)
	for _, service := range added {
		lines = slices.Insert(lines, end, indent+service+"\n")
	}
	return strings.Join(lines, "")
}

// missing returns the standard services that a policy's services do not name, each on a line, with no peer allowed.
func missing(services *yaml.Node) []string {
	named := make(map[string]bool)
	for i := 0; i < len(services.Content); i += 2 {
		named[services.Content[i].Value] = true
	}
	var rules []string
	for _, service := range standard() {
		if named[service.ServiceName] {
			continue
		}
		var methods []string
		for _, method := range service.Methods {
			methods = append(methods, method.MethodName+": {}")
		}
		for _, stream := range service.Streams {
			methods = append(methods, stream.StreamName+": {}")
		}
		rules = append(rules, fmt.Sprintf("%s: {methods: {%s}}", service.ServiceName, strings.Join(methods, ", ")))
	}
	return rules
}
