package userauth

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What an Error is about, for errors.Is. Their texts are what callers are told.
var (
	// ErrInvalidToken says that there is no access token, or that it is not good: malformed, forged, expired, revoked, for others, or another
	// certificate's (RFC 6750 §3.1).
	ErrInvalidToken = errors.New("the access token is missing or not valid")
	// ErrInsufficientUserAuthentication says that the customer must be authenticated better than they are (RFC 9470 §3).
	ErrInsufficientUserAuthentication = errors.New("a different authentication level is required")
	// ErrInsufficientScope says that the token does not have the scope that is needed (RFC 6750 §3.1).
	ErrInsufficientScope = errors.New("the access token does not have the scope that this needs")
	// ErrUnavailable says that tokens cannot be verified at the moment, because their keys are not known.
	ErrUnavailable = errors.New("access tokens cannot be verified at the moment")
)

// ErrUnknownKey is for a Keys to return when it knows its keys and that there is none of the name.
var ErrUnknownKey = errors.New("no key has this name")

// Reasons of the google.rpc.ErrorInfo in the status of a call that is refused, in the domain "countersign".
const (
	reasonInvalidToken = "INVALID_TOKEN"
	reasonStepUp       = "INSUFFICIENT_USER_AUTHENTICATION"
	reasonScope        = "INSUFFICIENT_SCOPE"
	reasonUnavailable  = "TOKEN_KEYS_UNAVAILABLE"

	domain        = "countersign"
	metadataACR   = "acr_values"
	metadataScope = "scope"
)

// Error is why a call is refused. Its text, its gRPC status and its HTTP answer are constant for each of the sentinels: they tell nothing of a token
// that its owner does not know, and nothing to one who has stolen it. A handler may return it as it is.
type Error struct {
	kind error
	// reason is for logs.
	reason string
	// absent says that the caller showed no token at all.
	absent bool
	acr    []string
	scope  string
}

// Error implements error.
func (e *Error) Error() string { return e.kind.Error() }

// Unwrap returns the sentinel.
func (e *Error) Unwrap() error { return e.kind }

// Reason says for a log what was wrong. It holds nothing of the token that is a secret, and it is not for the caller.
func (e *Error) Reason() string { return e.reason }

// code is the reason of the google.rpc.ErrorInfo.
func (e *Error) code() string {
	switch {
	case errors.Is(e, ErrInsufficientUserAuthentication):
		return reasonStepUp
	case errors.Is(e, ErrInsufficientScope):
		return reasonScope
	case errors.Is(e, ErrUnavailable):
		return reasonUnavailable
	default:
		return reasonInvalidToken
	}
}

// GRPCStatus is the status of a call that ends with this error.
func (e *Error) GRPCStatus() *status.Status {
	code, info := codes.Unauthenticated, &errdetails.ErrorInfo{Domain: domain, Reason: e.code()}
	switch info.GetReason() {
	case reasonStepUp:
		info.Metadata = map[string]string{metadataACR: strings.Join(e.acr, " ")}
	case reasonScope:
		code, info.Metadata = codes.PermissionDenied, map[string]string{metadataScope: e.scope}
	case reasonUnavailable:
		code = codes.Unavailable
	}
	st := status.New(code, e.Error())
	if detailed, err := st.WithDetails(info); err == nil { // it fails only for a status of OK
		return detailed
	}
	return st
}

// HTTPStatus is the status of the HTTP answer: 401, 403 or 503.
func (e *Error) HTTPStatus() int {
	switch {
	case errors.Is(e, ErrInsufficientScope):
		return http.StatusForbidden
	case errors.Is(e, ErrUnavailable):
		return http.StatusServiceUnavailable
	default:
		return http.StatusUnauthorized
	}
}

// Challenge is the WWW-Authenticate of the HTTP answer (RFC 6750 §3, RFC 9470 §3). It is empty for ErrUnavailable.
func (e *Error) Challenge() string {
	const realm = `Bearer realm="countersign"`
	with := func(code string) string {
		return fmt.Sprintf("%s, error=%q, error_description=%q", realm, code, e.Error())
	}
	switch {
	case errors.Is(e, ErrInsufficientUserAuthentication):
		return with("insufficient_user_authentication") + fmt.Sprintf(", acr_values=%q", strings.Join(e.acr, " "))
	case errors.Is(e, ErrInsufficientScope):
		return with("insufficient_scope") + fmt.Sprintf(", scope=%q", e.scope)
	case errors.Is(e, ErrUnavailable):
		return ""
	case e.absent: // RFC 6750 §3.1: no error code for one who did not try, or not in this way
		return realm
	default:
		return with("invalid_token")
	}
}

// FromError finds the Error in what a handler returned: the error itself, or the status that it has become on its way through gRPC.
func FromError(err error) (*Error, bool) {
	if e, ok := errors.AsType[*Error](err); ok {
		return e, true
	}
	st, ok := status.FromError(err)
	if !ok {
		return nil, false
	}
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == domain {
			return fromInfo(info)
		}
	}
	return nil, false
}

func fromInfo(info *errdetails.ErrorInfo) (*Error, bool) {
	switch info.GetReason() {
	case reasonInvalidToken:
		return &Error{kind: ErrInvalidToken}, true
	case reasonStepUp:
		return &Error{kind: ErrInsufficientUserAuthentication, acr: strings.Fields(info.GetMetadata()[metadataACR])}, true
	case reasonScope:
		return &Error{kind: ErrInsufficientScope, scope: info.GetMetadata()[metadataScope]}, true
	case reasonUnavailable:
		return &Error{kind: ErrUnavailable}, true
	default:
		return nil, false
	}
}

// invalid is an Error of ErrInvalidToken.
func invalid(format string, args ...any) *Error {
	return &Error{kind: ErrInvalidToken, reason: fmt.Sprintf(format, args...)}
}

// absent is the Error for one who shows no token at all.
func absent(reason string) *Error {
	return &Error{kind: ErrInvalidToken, reason: reason, absent: true}
}
