package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/countersign-mesh/countersign/pkg/settings"
)

// maxAnswer bounds what is read of an answer: somebody else may listen at the address.
const maxAnswer = 64 << 10

const healthcheckHelp = `Asks the %[1]s that runs on this machine whether it is ready: its /readyz, at the address of its --ops-listen; on loopback where that is
every address. It is for a container's health check, where there is no other program that could ask.

The exit code is 0 when it is ready. It is 1 when it is not, or does not answer, and one line says why. Without --ops-listen it is asked at %[2]s, as
it listens there by default.`

type healthcheckConfig struct {
	OpsListen listenAddress `placeholder:"HOST:PORT" help:"Where it serves /readyz; its own flag and variable."`
	// A little longer than /readyz takes at most (checkTimeout), so that the check that is slow is named.
	Timeout settings.Duration `default:"3s" env:"-" help:"How long to wait for the answer."`
}

// listenAddress is a settings.Address that may be left out.
type listenAddress string

// Check reports what is wrong with the address.
func (a *listenAddress) Check() error {
	if *a == "" {
		return nil
	}
	address := settings.Address(*a)
	return address.Check()
}

// Healthcheck is the command healthcheck of a program: it asks the process that serves a Handler at the program's --ops-listen whether it
// is ready, and returns nil when it is. program is the program's name, listen the default of its --ops-listen, args what follows the
// command. It says "ready" on out, or help.
func Healthcheck(ctx context.Context, program, listen string, args []string, out io.Writer) error {
	var cfg healthcheckConfig
	help := fmt.Sprintf(healthcheckHelp, program, listen)
	if err := settings.Parse(program+" healthcheck", help, args, out, &cfg); err != nil {
		return err
	}
	if cfg.OpsListen != "" {
		listen = string(cfg.OpsListen)
	}
	address, err := askable(listen)
	if err != nil {
		return fmt.Errorf("--ops-listen: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.Timeout.Value(), fmt.Errorf("no answer within %s", cfg.Timeout))
	defer cancel()
	if err := ask(ctx, address); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("not ready: http://%s/readyz: %w", address, err)
	}
	_, err = fmt.Fprintln(out, "ready")
	return err
}

// askable returns the address at which who listens at listen can be asked.
func askable(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	switch {
	case err != nil:
		return "", err
	case strings.Trim(port, "0") == "":
		return "", fmt.Errorf("%s lets the kernel choose the port, so that nobody knows where to ask; right would be a port, such as 127.0.0.1:8080", listen)
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case host == "", err == nil && ip.IsUnspecified() && ip.Unmap().Is4():
		host = "127.0.0.1"
	case err == nil && ip.IsUnspecified():
		host = netip.IPv6Loopback().String()
	}
	return net.JoinHostPort(host, port), nil
}

// ask returns nil when who is at address says that it is ready. It goes there straight: a proxy that the environment names, or a
// redirect, would have somebody else answer.
func ask(ctx context.Context, address string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz", http.NoBody)
	if err != nil {
		return err
	}
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		if cause := errors.Unwrap(err); cause != nil { // without the method and the URL, which the caller says
			err = cause
		}
		return err
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if response.StatusCode == http.StatusOK {
		return nil
	}
	return unready(response, body)
}

// unready says on one line which checks failed.
func unready(response *http.Response, body []byte) error {
	var results map[string]string
	if response.StatusCode != http.StatusServiceUnavailable || json.Unmarshal(body, &results) != nil {
		return fmt.Errorf("it answers %s, which is not what this program would; is --ops-listen that of another?", response.Status)
	}
	var failed []string
	for _, name := range slices.Sorted(maps.Keys(results)) {
		if result := results[name]; result != "ok" && !strings.HasPrefix(result, "ok (") {
			failed = append(failed, name+": "+strings.Join(strings.Fields(result), " "))
		}
	}
	return errors.New(strings.Join(failed, "; "))
}
