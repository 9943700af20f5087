package mesh

import (
	"context"
	"io"

	"github.com/countersign-mesh/countersign/pkg/ops"
	"github.com/countersign-mesh/countersign/pkg/settings"
)

// Flags are the settings that every service has. Embed them in the service's own; package settings reads them.
type Flags struct {
	WorkloadAPI  settings.Endpoint  `name:"workload-api" env:"SPIFFE_ENDPOINT_SOCKET" placeholder:"unix:///PATH" help:"The SPIFFE Workload API."`
	Listen       settings.Address   `default:"127.0.0.1:8443" help:"Where to serve gRPC over mutual TLS."`
	OpsListen    settings.Address   `default:"127.0.0.1:8080" help:"Where to serve /livez, /readyz and /metrics over plaintext HTTP."`
	Policy       settings.File      `required:"" placeholder:"FILE" help:"The policy file; watched, reloaded."`
	StartTimeout settings.Duration  `default:"15s" help:"How long to wait for a first SVID."`
	DrainTimeout settings.Duration  `default:"10s" help:"How long calls in flight may take after SIGTERM."`
	MaxCalls     settings.Count     `default:"512" help:"How many unary calls may be in handlers at once; of one peer, three quarters of that."`
	MaxStreams   settings.Count     `default:"1024" help:"How many streams may be open at once; of one peer, three quarters of that."`
	LogLevel     settings.Level     `default:"info" help:"debug, info, warn or error."`
	LogFormat    settings.LogFormat `default:"text" help:"text or json."`
}

// opsListen is the default of Flags.OpsListen.
const opsListen = "127.0.0.1:8080"

// Healthcheck is the command healthcheck that every service has: `ledger healthcheck` asks the ledger that runs beside it, at its
// --ops-listen (or LEDGER_OPS_LISTEN), whether it is ready. It returns nil when it is, and one line that says why it is not. A container's
// health check is then the service's own binary, and the image needs neither a shell nor curl. program is the name that the service gives
// to settings.Parse, args what follows the command.
func Healthcheck(ctx context.Context, program string, args []string, out io.Writer) error {
	return ops.Healthcheck(ctx, program, opsListen, args, out)
}
