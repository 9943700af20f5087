package story

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
)

const (
	payInterval = 250 * time.Millisecond
	// lookEvery is how many payments are made between two looks at the servers' certificates.
	lookEvery = 4
	// afterwards is how many payments are made with the new SVIDs.
	afterwards = 8
)

// watched is a server whose SVID is watched.
type watched struct {
	name          string
	before, after string
}

// rotation pays without a pause until it has seen new SVIDs at the gateway and at payments, and then some.
func (p *player) rotation(ctx context.Context) error {
	servers := []*watched{{name: "gateway"}, {name: "payments"}}
	for _, s := range servers {
		serial, err := p.serial(ctx, s.name)
		if err != nil {
			return err
		}
		s.before = serial
	}
	if ttl := p.settings.Mesh.SVIDTTL; ttl > 0 {
		p.note("SVIDs live %s here and are renewed half way", console.Span(ttl))
	}
	p.note("Alice pays Bob a cent every %v meanwhile, for at most %s", payInterval, console.Span(p.settings.RotationWait))
	begin := time.Now()
	count, failed, err := p.payUntilRotated(ctx, servers)
	if err != nil {
		return err
	}
	for _, s := range servers {
		p.check(s.after != "", fmt.Sprintf("%s got a new SVID: serial %s, then %s", s.name, tail(s.before), tail(s.after)),
			fmt.Sprintf("after %s it still has the same; wait longer with --rotation-wait", console.Span(time.Since(begin))))
	}
	p.check(count > 0 && len(failed) == 0, fmt.Sprintf("%d payments in %s, %d failed", count, console.Span(time.Since(begin)), len(failed)),
		strings.Join(failed, "\n"))
	p.sent += int64(count - len(failed))
	return p.balances(ctx, "")
}

// payUntilRotated returns how many payments were made and how each failed that did.
func (p *player) payUntilRotated(ctx context.Context, servers []*watched) (count int, failed []string, err error) {
	ticker := time.NewTicker(payInterval)
	defer ticker.Stop()
	rest := afterwards
	for deadline := time.Now().Add(p.settings.RotationWait); time.Now().Before(deadline) && rest > 0; {
		count++
		transfer, err := p.transfer(ctx, 1, fmt.Sprintf("cent-%s-%d", p.run, count))
		if refusal, ok := errors.AsType[*dial.StatusError](err); ok {
			failed = append(failed, fmt.Sprintf("payment %d: %v", count, refusal))
		} else if err != nil {
			return count, failed, err
		} else if transfer.GetStatus() != mobilev1.TransferStatus_TRANSFER_STATUS_DONE {
			failed = append(failed, fmt.Sprintf("payment %d: %v", count, transfer))
		}
		if rotated(servers) {
			rest--
		} else if count%lookEvery == 0 {
			if err := p.look(ctx, servers); err != nil {
				return count, failed, err
			}
		}
		select {
		case <-ctx.Done():
			return count, failed, context.Cause(ctx)
		case <-ticker.C:
		}
	}
	return count, failed, nil
}

func rotated(servers []*watched) bool {
	for _, s := range servers {
		if s.after == "" {
			return false
		}
	}
	return true
}

// look notes new SVIDs.
func (p *player) look(ctx context.Context, servers []*watched) error {
	for _, s := range servers {
		serial, err := p.serial(ctx, s.name)
		if err != nil {
			return err
		}
		if serial != s.before && s.after == "" {
			s.after = serial
		}
	}
	return nil
}

// serial is the serial number of the SVID that a server shows to who connects now.
func (p *player) serial(ctx context.Context, name string) (string, error) {
	target, err := p.target(name)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, knockTimeout)
	defer cancel()
	conn, peer, err := p.operator.Handshake(ctx, target)
	if err != nil {
		return "", err
	}
	return peer.Serial, conn.Close()
}

// tail is the end of a serial number, enough to tell two apart.
func tail(serial string) string {
	const digits = 12
	if serial == "" {
		return "none"
	}
	if len(serial) <= digits {
		return serial
	}
	return "…" + serial[len(serial)-digits:]
}
