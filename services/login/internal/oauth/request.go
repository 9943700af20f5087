package oauth

import (
	"errors"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/countersign-mesh/countersign/services/login/internal/grant"
)

const formType = "application/x-www-form-urlencoded"

// checkRequest fails for a request that is not of the form that the endpoint takes. What is secret does not belong into a URL, which is logged in many places.
func checkRequest(r *http.Request, contentType string) error {
	if r.URL.RawQuery != "" {
		return invalid("the parameters belong into the body")
	}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != contentType {
		return problem{status: http.StatusUnsupportedMediaType, Code: "invalid_request", Description: "the content type is not " + contentType}
	}
	return nil
}

// form reads the parameters of a request. One that is there twice is an error (RFC 6749 §3.2); those that are not known are passed over.
func form(r *http.Request) (url.Values, error) {
	if err := r.ParseForm(); err != nil {
		return nil, unreadable(err)
	}
	for _, values := range r.PostForm {
		if len(values) > 1 {
			return nil, invalid("a parameter is there twice")
		}
	}
	return r.PostForm, nil
}

// unreadable is why a body could not be read. The cause may hold some of it.
func unreadable(err error) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return problem{status: http.StatusRequestEntityTooLarge, Code: "invalid_request", Description: "the request is too large"}
	}
	return invalid("the body cannot be read")
}

// scopes reads a list of scopes (RFC 6749 §3.3).
func scopes(text string) ([]string, error) {
	asked := strings.Split(text, " ")
	for i, scope := range asked {
		if !slices.Contains(grant.Scopes(), scope) || slices.Contains(asked[:i], scope) {
			return nil, grant.ErrScope
		}
	}
	return asked, nil
}

// Patterns are of what is asked for. That of a challenge is the 32 bytes of a SHA-256 (RFC 7636 §4.2), and that of a verifier its §4.1.
const (
	challengePattern = `^[A-Za-z0-9_-]{43}$`
	verifierPattern  = `^[A-Za-z0-9._~-]{43,128}$`
	usernamePattern  = `^[a-z0-9][a-z0-9._@-]{0,62}$`
	otpPattern       = `^[0-9]{6}$`
	namePattern      = `^[\p{L}\p{N}\p{P}\p{S} ]{1,64}$`
	retryKeyPattern  = `^[\x21-\x7e]{16,128}$`
	maxPassword      = 1024
)

func is(pattern, text string) bool { return regexp.MustCompile(pattern).MatchString(text) }
