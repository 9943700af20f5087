package customer

import (
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/pkg/userauth/device"
)

// The reasons that the edge gives for a refusal which the customer can do something about (domain "countersign").
const (
	ReasonInvalidToken = "INVALID_TOKEN"
	ReasonStepUp       = "INSUFFICIENT_USER_AUTHENTICATION"
)

// Reason returns the reason that the edge gave for a refusal; empty for any other error.
func Reason(err error) string {
	s, ok := status.FromError(err)
	if !ok {
		return ""
	}
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == "countersign" {
			return info.GetReason()
		}
	}
	return ""
}

// Advise adds to an error what the customer can do about it. command is how this program is called for the profile, such as "countersign bank".
func Advise(err error, command string) error {
	advice := ""
	switch refused, isLogin := errors.AsType[*device.Error](err); {
	case err == nil:
		return nil
	case errors.Is(err, ErrNotEnrolled):
		advice = "enrol one with: " + command + " enrol --username NAME"
	case errors.Is(err, ErrEnrolled):
		advice = "enrol another one in another profile, with --profile NAME; a customer may have many"
	case errors.Is(err, ErrLoggedOut):
		advice = "log in with: " + command + " login"
	case isLogin && refused.RetryAfter > 0:
		advice = fmt.Sprintf("try again in %v", refused.RetryAfter)
	case isLogin && refused.Code == "invalid_grant":
		advice = "the user name, the password or the one-time code is wrong, the code was used before, or the session has ended: " + command + " login"
	case isLogin && refused.Code == "invalid_client":
		advice = "the device is not known (any more): it was revoked, or its certificate has expired; enrol another one"
	case Reason(err) == ReasonInvalidToken:
		advice = "the session has ended, or it is another device's; log in again with: " + command + " login"
	case Reason(err) == ReasonStepUp:
		advice = "for this the bank wants a one-time code, too; log in with one: " + command + " login --otp CODE"
	}
	if advice == "" {
		return plain{err}
	}
	return fmt.Errorf("%w; %s", plain{err}, advice)
}

// plain is an error of a call as a customer is to read it.
type plain struct{ error }

// Error implements error.
func (p plain) Error() string {
	if s, ok := status.FromError(p.error); ok {
		return fmt.Sprintf("%s: %s", dial.CodeName(s.Code()), s.Message())
	}
	return p.error.Error()
}

// Unwrap returns the error itself.
func (p plain) Unwrap() error { return p.error }
