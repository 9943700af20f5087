package bank

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Program is one program of a Mesh, as mesh.json has it.
type Program struct {
	Name       string `json:"name"`
	SPIFFEID   string `json:"spiffe_id"`
	Address    string `json:"address"`
	OpsAddress string `json:"ops_address"`
	Log        string `json:"log"`
	PID        int    `json:"pid"`
}

// Record is mesh.json in the run directory.
type Record struct {
	TrustDomain string `json:"trust_domain"`
	WorkloadAPI string `json:"workload_api"`
	Ready       bool   `json:"ready"`
	Supervisor  struct {
		PID int `json:"pid"`
	} `json:"supervisor"`
	Programs []Program `json:"programs"`
	// Customers is where they come in.
	Customers struct {
		GRPC   string `json:"grpc"`
		REST   string `json:"rest"`
		Login  string `json:"login"`
		Issuer string `json:"issuer"`
		Root   string `json:"root"` // a file
	} `json:"edge"`
}

// Mesh is a mesh that `countersign up` runs.
type Mesh struct {
	*Home
	Record
	// Up is the process of `countersign up`.
	Up *Process
}

// Up starts the Home's mesh on free ports and waits until it is ready. It is stopped at the end of the test.
func (h *Home) Up(t testing.TB, args ...string) *Mesh {
	t.Helper()
	m := &Mesh{Home: h, Up: h.Begin(t, args...)}
	Eventually(t, 60*time.Second, func() string {
		if !m.Up.Running() {
			t.Fatalf("countersign up ended with %d:\n%s", m.Up.Wait(t, time.Second), m.Up.Output())
		}
		r, err := h.ReadRecord()
		if err != nil {
			return err.Error()
		}
		if !r.Ready || r.Supervisor.PID != m.Up.PID() {
			return "the mesh is not ready:\n" + m.Up.Output()
		}
		m.Record = r
		return ""
	})
	return m
}

// Begin starts the Home's mesh on free ports and does not wait.
func (h *Home) Begin(t testing.TB, args ...string) *Process {
	t.Helper()
	up := h.Start(t, nil, "countersign", append([]string{"up", "--run-dir=" + h.RunDir, "--base-port=0"}, args...)...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("countersign up said:\n%s", tail(up.Output(), 80))
		}
		if up.Running() {
			up.Signal(t, syscall.SIGTERM)
			up.Wait(t, 30*time.Second)
		}
	})
	return up
}

// ReadRecord reads mesh.json.
func (h *Home) ReadRecord() (Record, error) {
	data, err := os.ReadFile(filepath.Join(h.RunDir, "mesh.json"))
	if err != nil {
		return Record{}, err
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, fmt.Errorf("mesh.json: %w", err)
	}
	return r, nil
}

// Stop stops the mesh as Ctrl-C does and returns the exit code of `countersign up`.
func (m *Mesh) Stop(t testing.TB) int {
	t.Helper()
	m.Up.Interrupt(t)
	return m.Up.Wait(t, 30*time.Second)
}

// Program returns the program of that name.
func (r Record) Program(t testing.TB, name string) Program {
	t.Helper()
	for _, p := range r.Programs {
		if p.Name == name {
			return p
		}
	}
	t.Fatalf("no program %q in mesh.json", name)
	return Program{}
}

// Log returns the log of a program.
func (m *Mesh) Log(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(m.Program(t, name).Log)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Edge returns where customers come in.
func (r Record) Edge(t testing.TB) Edge {
	t.Helper()
	c := r.Customers
	return Edge{GRPC: c.GRPC, REST: c.REST, Login: c.Login, Issuer: c.Issuer, Roots: ReadRoots(t, c.Root)}
}

// Socket returns the path of the Workload API's socket.
func (r Record) Socket() string { return strings.TrimPrefix(r.WorkloadAPI, "unix://") }

func tail(s string, lines int) string {
	all := strings.Split(s, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
