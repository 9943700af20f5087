package supervisor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	probeTimeout = 3 * time.Second
	expiryMetric = "countersign_svid_expiry_timestamp_seconds"
	maxBody      = 8 << 20
)

// prober asks programs over their ops port how they are.
type prober struct{ client *http.Client }

func newProber() prober {
	// Without keep-alive no connection outlives the question.
	return prober{client: &http.Client{Timeout: probeTimeout, Transport: &http.Transport{DisableKeepAlives: true}}}
}

func (p prober) get(ctx context.Context, url string) (code int, body []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	response, err := p.client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	body, err = io.ReadAll(io.LimitReader(response.Body, maxBody))
	return response.StatusCode, body, errors.Join(err, response.Body.Close())
}

// ready returns nil when the program at this ops address is ready, or why it is not.
func (p prober) ready(ctx context.Context, opsAddress string) error {
	code, body, err := p.get(ctx, "http://"+opsAddress+"/readyz")
	if err != nil {
		return fmt.Errorf("ask /readyz: %w", err)
	}
	if code == http.StatusOK {
		return nil
	}
	var results map[string]string
	if err := json.Unmarshal(body, &results); err != nil {
		return fmt.Errorf("/readyz answers %d: %s", code, strings.TrimSpace(string(body)))
	}
	var reasons []string
	for _, check := range slices.Sorted(maps.Keys(results)) {
		if results[check] != "ok" {
			reasons = append(reasons, check+": "+results[check])
		}
	}
	return errors.New(strings.Join(reasons, "; "))
}

// svidExpiry returns when the program's SVID expires, and false when the program does not say.
func (p prober) svidExpiry(ctx context.Context, opsAddress string) (time.Time, bool) {
	code, body, err := p.get(ctx, "http://"+opsAddress+"/metrics")
	if err != nil || code != http.StatusOK {
		return time.Time{}, false
	}
	return parseExpiry(string(body))
}

// parseExpiry finds the one gauge in Prometheus' text format.
func parseExpiry(metrics string) (time.Time, bool) {
	lines := bufio.NewScanner(strings.NewReader(metrics))
	lines.Buffer(nil, maxBody)
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), expiryMetric)
		if !ok || rest == "" || (rest[0] != ' ' && rest[0] != '{') {
			continue
		}
		fields := strings.Fields(rest[strings.LastIndex(rest, "}")+1:])
		if len(fields) == 0 {
			continue
		}
		seconds, err := strconv.ParseFloat(fields[0], 64)
		if err != nil || seconds <= 0 || math.IsInf(seconds, 0) || math.IsNaN(seconds) {
			continue
		}
		whole, fraction := math.Modf(seconds)
		return time.Unix(int64(whole), int64(fraction*1e9)), true
	}
	return time.Time{}, false
}

// poll calls f every interval until it reports true or ctx ends.
func poll(ctx context.Context, interval time.Duration, f func() bool) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for !f() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
	return nil
}
