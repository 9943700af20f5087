package oauth

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/login/internal/customer"
	"github.com/countersign-mesh/countersign/services/login/internal/device"
	"github.com/countersign-mesh/countersign/services/login/internal/grant"
	"github.com/countersign-mesh/countersign/services/login/internal/keys"
)

// problem is an error as clients are told it (RFC 6749 §5.2). Its texts are constant.
type problem struct {
	status      int
	retryAfter  time.Duration
	Code        string `json:"error"`
	Description string `json:"error_description,omitempty"`
}

// Error implements error.
func (p problem) Error() string { return p.Code + ": " + p.Description }

func invalid(description string) problem {
	return problem{status: http.StatusBadRequest, Code: "invalid_request", Description: description}
}

// tooMany is the answer to one attempt too many (RFC 6585 §4).
func tooMany(wait time.Duration) problem {
	return problem{status: http.StatusTooManyRequests, retryAfter: wait, Code: "temporarily_unavailable", Description: "too many attempts; try again later"}
}

// answer writes what came of a request, and returns its status.
func (h *Handler) answer(ctx context.Context, w http.ResponseWriter, answer any, err error) int {
	status := http.StatusOK
	if err != nil {
		p := h.problemOf(ctx, err)
		if p.retryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(p.retryAfter.Seconds()))))
		}
		status, answer = p.status, p
	}
	if answer == nil {
		w.WriteHeader(status)
		return status
	}
	if c, ok := answer.(created); ok {
		status, answer = http.StatusCreated, c.answer
	}
	text, err := json.Marshal(answer)
	if err != nil {
		h.Log.ErrorContext(ctx, "cannot write an answer", "error", err)
		status, text = http.StatusInternalServerError, []byte(`{"error":"server_error"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(text) // who has gone is not told
	return status
}

// created is an answer to what has made something.
type created struct{ answer any }

// problemOf is the one place that maps errors to what clients are told.
func (h *Handler) problemOf(ctx context.Context, err error) problem {
	if p, ok := errors.AsType[problem](err); ok {
		return p
	}
	// First, because what made the outcome unknown may be one of those below.
	unknown := errors.Is(err, database.ErrOutcomeUnknown)
	for _, known := range []struct {
		is   error
		code string
	}{
		{customer.ErrWrong, "invalid_grant"},
		{grant.ErrGrant, "invalid_grant"},
		{grant.ErrScope, "invalid_scope"},
		{device.ErrRequest, "invalid_request"},
		{device.ErrKeyKnown, "invalid_request"},
		{device.ErrTooMany, "invalid_request"},
	} {
		if !unknown && errors.Is(err, known.is) {
			return problem{status: http.StatusBadRequest, Code: known.code, Description: known.is.Error()}
		}
	}
	if ctx.Err() == nil || !errors.Is(err, context.Canceled) {
		h.Log.ErrorContext(ctx, "a device's request failed", "error", err)
	}
	if unknown || database.Unavailable(err) || errors.Is(err, keys.ErrStale) || errors.Is(err, context.DeadlineExceeded) {
		return problem{status: http.StatusServiceUnavailable, retryAfter: time.Second, Code: "temporarily_unavailable", Description: "try again later"}
	}
	return problem{status: http.StatusInternalServerError, Code: "server_error", Description: "internal error"}
}

func statusText(status int) string { return strconv.Itoa(status) }
