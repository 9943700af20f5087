package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/registration"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/spire"
)

const (
	// spireServerOffset is how far the port that the SPIRE server has for its agent is above the base port; the ops ports of both follow that of
	// the authority, in whose place they are.
	spireServerOffset = 20
	spireAgentOps     = issuerOpsOffset + 1
	// spireNode is what this machine is called: it has the one node.
	spireNode = "local"
)

// spireIssuer is a SPIRE server and agent of this machine's. What they keep is apart from what the embedded authority keeps, so that a run
// directory can be used with the one and the other in turn.
type spireIssuer struct{ found spire.Programs }

func (i spireIssuer) String() string {
	return strings.TrimSpace("SPIRE " + i.found.Version)
}

func (i spireIssuer) find(ctx context.Context, s Settings) (issuer, error) {
	if err := lifetimes(s).Check(); err != nil {
		return i, err
	}
	found, err := spire.FindPrograms(s.SPIREBin)
	if err != nil {
		return i, err
	}
	found, err = found.AskVersion(ctx)
	return spireIssuer{found}, err
}

func (spireIssuer) users() map[int]string {
	return map[int]string{spireServerOffset: "SPIRE server", issuerOpsOffset: "SPIRE server, ops", spireAgentOps: "SPIRE agent, ops"}
}

// serverSocket is beside that of the Workload API, in a directory that is its owner's alone.
func (spireIssuer) serverSocket(socket string) string {
	return filepath.Join(filepath.Dir(socket), "server.sock")
}

// lifetimes are how long what SPIRE signs lives.
func lifetimes(s Settings) spire.Lifetimes {
	l := spire.Lifetimes{SVID: s.SVIDTTL, Authority: s.AuthorityTTL}
	if l.Authority == 0 {
		l.Authority = spire.DefaultAuthorityTTL
	}
	return l
}

func (i spireIssuer) programs(s Settings, trustDomain, socket string, ports map[int]int) []Program {
	state := spireState(s.Dir.SPIRE())
	server := spire.ServerConfig{
		TrustDomain: trustDomain, Socket: i.serverSocket(socket), Data: state.data("server"), LogLevel: strings.ToUpper(s.LogLevel), Lifetimes: lifetimes(s),
		Listen: spire.Endpoint{Host: "127.0.0.1", Port: ports[spireServerOffset]}, Health: spire.Endpoint{Host: "127.0.0.1", Port: ports[issuerOpsOffset]},
	}
	agent := spire.AgentConfig{
		TrustDomain: trustDomain, Socket: socket, Data: state.data("agent"), Bundle: state.file("bundle.pem"), LogLevel: server.LogLevel,
		Server: server.Listen, Health: spire.Endpoint{Host: "127.0.0.1", Port: ports[spireAgentOps]},
	}
	return []Program{
		{
			Name: "spire-server", AgentAddress: loopback(server.Listen.Port), OpsAddress: loopback(server.Health.Port), Path: i.found.Server, Args: []string{"run", "-config", state.file("server.conf")},
			Before: func(ctx context.Context) (string, error) { return "", state.prepareServer(ctx, server) },
		},
		{
			Name: "spire-agent", OpsAddress: loopback(agent.Health.Port), Path: i.found.Agent, Args: []string{"run", "-config", state.file("agent.conf")},
			Before: func(ctx context.Context) (string, error) {
				outcome, err := state.register(ctx, s, server.Socket)
				if err != nil {
					return "", err
				}
				return fmt.Sprintf("countersign: node %s: %v", spireNode, outcome), state.prepareAgent(ctx, agent)
			},
		},
	}
}

// spireState is the directory where SPIRE's state is.
type spireState string

func (d spireState) file(name string) string    { return filepath.Join(string(d), name) }
func (d spireState) data(program string) string { return d.file(program) }

func (d spireState) node(ctx context.Context) (spire.Node, error) {
	node, _, err := spire.PrepareNode(ctx, d.file("node"), spireNode)
	return node, err
}

// prepareServer writes the server's configuration, and what its agent attests with when that is not there yet.
func (d spireState) prepareServer(ctx context.Context, c spire.ServerConfig) error {
	node, err := d.node(ctx)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return fmt.Errorf("make a directory for the SPIRE server: %w", err)
	}
	c.Authorities = node.Authorities
	text, err := c.Text()
	if err != nil {
		return err
	}
	return d.write("server.conf", text)
}

// register tells the server of the entries, as soon as it answers, and has from it by what the agent knows it.
func (d spireState) register(ctx context.Context, s Settings, socket string) (outcome spire.Outcome, err error) {
	file, err := registration.Read(s.Dir.Registration())
	if err != nil {
		return outcome, err
	}
	server, err := spire.OpenServer(socket)
	if err != nil {
		return outcome, err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	if err := server.Await(ctx); err != nil {
		return outcome, err
	}
	if outcome, err = server.Register(ctx, file, spireNode); err != nil {
		return outcome, err
	}
	return outcome, server.WriteBundle(ctx, d.file("bundle.pem"))
}

// prepareAgent writes the agent's configuration, and forgets what an earlier agent has kept: its SVID may have expired and the authorities that
// it knew may be gone, and this one has all that it needs to attest anew.
func (d spireState) prepareAgent(ctx context.Context, c spire.AgentConfig) error {
	if err := os.RemoveAll(c.Data); err != nil {
		return fmt.Errorf("forget the SPIRE agent of before: %w", err)
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return fmt.Errorf("make a directory for the SPIRE agent: %w", err)
	}
	node, err := d.node(ctx)
	if err != nil {
		return err
	}
	c.Node = node
	text, err := c.Text()
	if err != nil {
		return err
	}
	return d.write("agent.conf", text)
}

func (d spireState) write(name string, text []byte) error {
	if err := os.WriteFile(d.file(name), text, 0o600); err != nil {
		return fmt.Errorf("write the configuration of SPIRE: %w", err)
	}
	return nil
}
