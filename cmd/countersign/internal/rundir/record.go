package rundir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ErrNoMesh means that no mesh is recorded in the directory.
var ErrNoMesh = errors.New("no mesh is running")

// Record is what is known of a running mesh: mesh.json.
type Record struct {
	TrustDomain string `json:"trust_domain"`
	// WorkloadAPI is the Workload API's endpoint, "unix:///…".
	WorkloadAPI string `json:"workload_api"`
	// SocketDir is the private directory that was made for the socket; empty when the socket is in the run directory.
	SocketDir string `json:"socket_dir,omitempty"`
	// Issuer says who serves the Workload API, and ServerSocket is where a SPIRE server has its administrative API; empty for the authority.
	Issuer       string        `json:"issuer,omitempty"`
	ServerSocket string        `json:"spire_server_socket,omitempty"`
	Bin          string        `json:"bin"`
	Policy       string        `json:"policy"`
	Registration string        `json:"registration"`
	SVIDTTL      time.Duration `json:"svid_ttl_ns"`
	// Edge is where customers come in.
	Edge Edge `json:"edge"`
	// Supervisor is the process of `countersign up`.
	Supervisor Process `json:"supervisor"`
	// Ready is set once every program was ready.
	Ready    bool      `json:"ready"`
	Programs []Program `json:"programs"`
}

// Edge is where customers find the bank: HOST:PORT of each door, the URL that login is known by, and the file with those who vouch for the
// edge's certificate.
type Edge struct {
	GRPC   string `json:"grpc"`
	REST   string `json:"rest"`
	Login  string `json:"login"`
	Issuer string `json:"issuer"`
	Root   string `json:"root"`
}

// Program is one program of the mesh.
type Program struct {
	Name string `json:"name"`
	// SPIFFEID is empty for who serves the Workload API: they have no identity of it, they give them.
	SPIFFEID string `json:"spiffe_id,omitempty"`
	// Address serves gRPC, OpsAddress serves HTTP; who serves the Workload API has only the latter.
	Address    string    `json:"address,omitempty"`
	OpsAddress string    `json:"ops_address"`
	Log        string    `json:"log"`
	Started    time.Time `json:"started"`
	// ReadyAfter is how long it took from the start of the mesh; 0 until the mesh is ready.
	ReadyAfter time.Duration `json:"ready_after_ns,omitempty"`
	Process
}

// Socket returns the path of the Workload API's socket.
func (r Record) Socket() string { return strings.TrimPrefix(r.WorkloadAPI, "unix://") }

// Actors returns the directory of the programs that the demo's actors are started from.
func (r Record) Actors() string { return filepath.Join(r.Bin, "actors") }

// Find returns the program with this name.
func (r Record) Find(name string) (Program, bool) {
	for _, p := range r.Programs {
		if p.Name == name {
			return p, true
		}
	}
	return Program{}, false
}

// Read returns the record of the mesh in the directory. It fails with ErrNoMesh when there is none. That a mesh is recorded does not
// mean that it is alive: see Process.Alive.
func (d Dir) Read() (Record, error) {
	data, err := os.ReadFile(d.record())
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, fmt.Errorf("%w in %s", ErrNoMesh, d)
	}
	if err != nil {
		return Record{}, fmt.Errorf("read the record of the mesh: %w", err)
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, fmt.Errorf("read the record of the mesh, %s: %w", d.record(), err)
	}
	return r, nil
}

// Running is Read for who needs a mesh that is alive: it fails with ErrNoMesh, and says what to do, when there is none.
func (d Dir) Running() (Record, error) {
	r, err := d.Read()
	if errors.Is(err, ErrNoMesh) {
		return Record{}, fmt.Errorf("%w; start one with: countersign up", err)
	}
	if err != nil {
		return Record{}, err
	}
	if !r.Supervisor.Alive() {
		return Record{}, fmt.Errorf("%w in %s any more: process %d, which ran it, has ended; start one with: countersign up", ErrNoMesh, d, r.Supervisor.PID)
	}
	return r, nil
}

// Write stores the record. A reader sees the old one or the new one, whole.
func (d Dir) Write(r Record) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write the record of the mesh: %w", err)
	}
	if err := WriteFile(d.record(), append(data, '\n')); err != nil {
		return fmt.Errorf("write the record of the mesh: %w", err)
	}
	return nil
}

// Forget removes the record and the sockets that it names. What is gone already is no error.
func (d Dir) Forget(r Record) error {
	var errs []error
	remove := func(path string) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	for _, socket := range []string{r.Socket(), r.ServerSocket} {
		if socket != "" {
			remove(socket)
		}
	}
	if r.SocketDir != "" {
		remove(r.SocketDir)
	}
	remove(d.record())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up after the mesh: %w", err)
	}
	return nil
}

// WriteFile writes a file that is its owner's alone, so that a reader sees the old content or the new one, whole.
func WriteFile(path string, data []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}
