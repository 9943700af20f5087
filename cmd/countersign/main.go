// Command countersign runs the bank's mesh on one machine, shows what it does, and calls its services with the identity of whoever
// runs it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/site"
)

func main() {
	err := run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "countersign:", err)
	code := 1
	if c, ok := errors.AsType[*codeError](err); ok {
		code = c.code
	}
	os.Exit(code)
}

// The exit codes that are not 1, which stands for what failed.
const (
	codeUsage      = 2
	codeNotRunning = 3 // of status, as the Linux Standard Base has it for init scripts
)

// codeError is an error that the program ends with a code of its own for.
type codeError struct {
	code int
	error
}

// Unwrap returns the error itself.
func (e *codeError) Unwrap() error { return e.error }

// cli is the whole command line.
type cli struct {
	Up       upCommand       `cmd:"" help:"Start the mesh: the authority, or SPIRE, and the seven services. Ctrl-C stops it."`
	Down     downCommand     `cmd:"" help:"Stop the mesh, and clean up after one that was killed."`
	Status   statusCommand   `cmd:"" help:"Say how each program of the mesh is; of a mesh file's mesh, how each service answers. Exits with 3 when no mesh runs."`
	Demo     demoCommand     `cmd:"" help:"Play a day of the bank against the running mesh and check every outcome."`
	SVID     svidCommand     `cmd:"" name:"svid" help:"This process's own X.509-SVID, from the Workload API."`
	Call     callCommand     `cmd:"" help:"Call a gRPC method, with this process's identity, of a server whose SPIFFE ID is verified."`
	Proxy    proxyCommand    `cmd:"" help:"Serve a server on a plaintext port of loopback, with this process's identity, for stock tools."`
	Audit    auditCommand    `cmd:"" help:"Look up authorization decisions."`
	Policy   policyCommand   `cmd:"" help:"Check, test, explain, draw, compare and change policy files."`
	Peers    peersCommand    `cmd:"" help:"List the live connections of a server: with whom, by which SVID, until when."`
	Revoke   revokeCommand   `cmd:"" help:"Revoke a workload (--id), an SVID (--serial) or an authority (--authority) in the policy file, and show which connections were cut."`
	Bank     bankCommand     `cmd:"" help:"Be a customer of the bank: enrol a device, log in, pay, over the gateway's edge."`
	Customer customerCommand `cmd:"" help:"Make customers, and look after their devices, as the operator."`

	Edge  edgeCommand  `cmd:"" help:"The door for customers: the certificate that they are shown."`
	SPIRE spireCommand `cmd:"" name:"spire" help:"What SPIRE needs to take the embedded authority's place: prepare a node, register the entries."`
	Act   actCommand   `cmd:"" hidden:"" help:"Make the calls that standard input orders, or whoever connects to a socket. For demo, which acts through copies of this program."`

	Healthcheck healthcheckCommand `cmd:"" help:"Exit with 0 when the Workload API gives this process an identity. For containers."`

	RunDir string `default:".countersign" env:"COUNTERSIGN_RUN_DIR" placeholder:"DIR" help:"Where the mesh of up keeps its state, and other commands find it: ${default} in the current directory."`
	Mesh   string `env:"COUNTERSIGN_MESH" placeholder:"FILE" help:"A mesh that up did not start, such as one in containers: who serves where, in a file such as deploy/compose/mesh.yaml. It takes the place of what runs in --run-dir."`
}

// session is what a command works with.
type session struct {
	// hurry is closed by a second Ctrl-C.
	hurry  <-chan struct{}
	args   []string
	dir    rundir.Dir
	mesh   site.Finder
	stdin  io.Reader
	stdout io.Writer
	out    *console.Console
	err    *console.Console
	log    *slog.Logger
}

// ownMesh fails when a mesh is named that commands which start and stop processes know nothing of: what was meant may be either.
func (s *session) ownMesh() error {
	if s.mesh.File == "" {
		return nil
	}
	return &codeError{code: codeUsage, error: fmt.Errorf(
		"up and down are about the mesh in %s, and --mesh (COUNTERSIGN_MESH) names another, %s; leave it out", s.dir, s.mesh.File)}
}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	var commands cli
	helped := false
	parser, err := kong.New(&commands,
		kong.Name("countersign"),
		kong.Description("A service mesh without sidecars: each process proves who it is with a SPIFFE X.509-SVID, and every call is authorized by the peer's SPIFFE ID.\n\nTo see it: countersign up, then countersign demo in another terminal."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { helped = true }),
	)
	if err != nil {
		return fmt.Errorf("read the grammar of the command line: %w", err)
	}
	command, err := parser.Parse(args)
	if helped {
		return nil
	}
	if err != nil {
		return usage(err)
	}
	ctx, hurry, stop := signals()
	defer stop()
	dir, err := rundir.At(commands.RunDir)
	if err != nil {
		return err
	}
	command.BindTo(ctx, (*context.Context)(nil))
	return command.Run(&session{
		hurry: hurry, args: args, dir: dir, mesh: site.Finder{File: commands.Mesh, Dir: dir}, stdin: stdin, stdout: stdout,
		out: console.New(stdout, os.Environ()), err: console.New(stderr, os.Environ()),
		log: slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
}

// usage is the error of a command line that makes no sense.
func usage(err error) error {
	where := "countersign"
	if parse, ok := errors.AsType[*kong.ParseError](err); ok && parse.Context.Selected() != nil {
		err = expectation(err, parse.Context.Selected().Positional)
		where = strings.TrimSpace("countersign " + parse.Context.Command())
		where, _, _ = strings.Cut(where, " <")
	}
	return &codeError{code: codeUsage, error: fmt.Errorf("%w (%s --help explains all flags)", err, where)}
}

// expectation says in words which arguments are missing, by their tag "expects"; kong names their placeholders.
func expectation(err error, arguments []*kong.Positional) error {
	if !strings.HasPrefix(err.Error(), `expected "<`) {
		return err
	}
	var missing []string
	for _, argument := range arguments {
		if what := argument.Tag.Get("expects"); what != "" && strings.Contains(err.Error(), "<"+argument.Name+">") {
			missing = append(missing, what)
		}
	}
	if len(missing) == 0 {
		return err
	}
	return fmt.Errorf("expected %s", strings.Join(missing, ", and "))
}

// signals returns a context that ends with the first SIGINT, SIGTERM or SIGHUP, and a channel that is closed by the second.
func signals() (ctx context.Context, hurry <-chan struct{}, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	received, again, ended := make(chan os.Signal, 2), make(chan struct{}), make(chan struct{})
	signal.Notify(received, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		defer close(ended)
		defer cancel()
		if _, ok := <-received; !ok {
			return
		}
		cancel()
		if _, ok := <-received; ok {
			close(again)
		}
	}()
	return ctx, again, func() {
		signal.Stop(received)
		close(received)
		<-ended
	}
}
