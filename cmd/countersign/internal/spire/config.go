package spire

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"strconv"
	"text/template"
	"time"
)

// The one text of each configuration: deploy/spire has what becomes of it for containers, and a test holds the two together.
//
//go:embed server.conf.tmpl agent.conf.tmpl
var templates embed.FS

// Lifetimes are how long what SPIRE signs is good for.
type Lifetimes struct{ SVID, Authority time.Duration }

const (
	// DefaultAuthorityTTL is SPIRE's own default.
	DefaultAuthorityTTL = 24 * time.Hour
	// shortestSVID is twice the time by which SPIRE dates an SVID back (10 s): an agent renews at half of an SVID's whole life, the time before
	// it was made included, so with less it would renew without a pause.
	shortestSVID = 20 * time.Second
	// authorityShare is the share of an authority's life that is left when SPIRE puts the next one in its place: what it signs must not need more.
	authorityShare = 6
	longestAgent   = time.Hour
	longestJWT     = 5 * time.Minute
)

// Check says which of the lifetimes SPIRE cannot keep.
func (l Lifetimes) Check() error {
	var errs []error
	if l.SVID < shortestSVID {
		errs = append(errs, fmt.Errorf("--svid-ttl: %v is too short for SPIRE, whose agent would renew without a pause; right would be %v or more", l.SVID, shortestSVID))
	}
	if l.Authority < authorityShare*l.SVID {
		errs = append(errs, fmt.Errorf("--authority-ttl: %v is too short for SPIRE to sign SVIDs of %v with, since it is used until a %dth of it is left; right would be %v or more",
			l.Authority, l.SVID, authorityShare, authorityShare*l.SVID))
	}
	return errors.Join(errs...)
}

// Agent is how long an agent's own SVID lives. It does not follow that of workloads: an agent that cannot renew it in time ends.
func (l Lifetimes) Agent() time.Duration { return min(longestAgent, l.Authority/authorityShare) }

// JWT is how long JWT-SVIDs live.
func (l Lifetimes) JWT() time.Duration { return min(longestJWT, l.Authority/authorityShare) }

// Endpoint is a host and a port.
type Endpoint struct {
	Host string
	Port int
}

// ServerConfig is what a server is configured with.
type ServerConfig struct {
	TrustDomain string
	// Listen is for agents, Socket for the administrative API, Health for /livez and /readyz.
	Listen, Health Endpoint
	Socket         string
	Data           string
	// Authorities are those of the nodes.
	Authorities string
	LogLevel    string
	Lifetimes   Lifetimes
}

// Text returns the server's configuration file.
func (c ServerConfig) Text() ([]byte, error) { return render("server.conf.tmpl", c) }

// AgentConfig is what an agent is configured with.
type AgentConfig struct {
	TrustDomain    string
	Server, Health Endpoint
	// Socket serves the Workload API.
	Socket   string
	Data     string
	Bundle   string
	Node     Node
	LogLevel string
	// Docker has it attest containers by their labels, and not processes by their binaries.
	Docker bool
}

// Text returns the agent's configuration file.
func (c AgentConfig) Text() ([]byte, error) { return render("agent.conf.tmpl", c) }

func render(name string, data any) ([]byte, error) {
	parsed, err := template.New(name).Funcs(template.FuncMap{"quote": strconv.Quote}).ParseFS(templates, name)
	if err != nil {
		return nil, fmt.Errorf("read the template of %s: %w", name, err)
	}
	var out bytes.Buffer
	if err := parsed.Execute(&out, data); err != nil {
		return nil, fmt.Errorf("write %s: %w", name, err)
	}
	return out.Bytes(), nil
}
