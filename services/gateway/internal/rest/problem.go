package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/overload"
	"github.com/countersign-mesh/countersign/pkg/userauth"
)

// problem is the body of an answer that is an error (RFC 9457 §3). Its type is about:blank, which says no more than the status.
type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	// Code is for programs: the reason of the gRPC status, or else the name of its code.
	Code string `json:"code"`
}

func write(w http.ResponseWriter, p problem) {
	if p.Title = http.StatusText(p.Status); p.Title == "" { // 499 has none
		p.Title = "Client Closed Request"
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client is gone; nothing to tell it
}

// callFailed answers with what a call has ended with.
func callFailed(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
	fail(w, err)
}

func fail(w http.ResponseWriter, err error) {
	if _, ok := userauth.FromError(err); ok {
		userauth.WriteProblem(w, err)
		return
	}
	st := status.Convert(err)
	p := problem{Status: runtime.HTTPStatusFromCode(st.Code()), Detail: st.Message(), Code: codeName(st)}
	if st.Code() == codes.ResourceExhausted || st.Code() == codes.Unavailable {
		w.Header().Set("Retry-After", strconv.Itoa(retryAfter(err)))
	}
	write(w, p)
}

// codeName is what a program is told of a status.
func codeName(st *status.Status) string {
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return code.Code(st.Code()).String() //nolint:gosec // one of seventeen
}

// retryAfter is when to come back, in whole seconds (RFC 9110 §10.2.3).
func retryAfter(err error) int {
	delay, _ := overload.RetryDelay(err)
	return max(1, int(math.Ceil(delay.Seconds())))
}

// notRouted answers a request for which there is no method.
func notRouted(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, httpStatus int) {
	nowhere(w, httpStatus)
}

func nowhere(w http.ResponseWriter, httpStatus int) {
	write(w, problem{Status: httpStatus, Detail: "there is nothing at this path for this method", Code: map[int]string{
		http.StatusNotFound: "NOT_FOUND", http.StatusMethodNotAllowed: "UNIMPLEMENTED", http.StatusBadRequest: "INVALID_ARGUMENT",
	}[httpStatus]})
}

// oneObject fails unless the body is one JSON object and nothing more. What translates reads one value and drops what follows it.
func oneObject(body []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(body))
	var object map[string]json.RawMessage
	if err := decoder.Decode(&object); err != nil || object == nil {
		return errMalformed
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errMalformed
	}
	return nil
}
