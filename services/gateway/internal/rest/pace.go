package rest

import (
	"net/http"
	"time"
)

// paced has every piece of an answer be taken in within a bound: a client that reads nothing would hold its stream, and its memory, for ever.
//
// That a request is sent within a bound is the server's doing, by its ReadTimeout, which net/http ends when the request is there.
func paced(next http.Handler, pace time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 1 && r.ContentLength != 0 { // net/http would wait for a body that nobody reads before it answers, to keep the connection
			w.Header().Set("Connection", "close") // unless it has arrived
		}
		paced := &pacedWriter{ResponseWriter: w, control: http.NewResponseController(w), pace: pace}
		next.ServeHTTP(paced, r)
		// What was written is sent, at the latest, when this returns. Over HTTP/1.1 that is so also when the client has gone, or says that it has.
		if r.ProtoMajor == 1 || r.Context().Err() == nil {
			paced.bind()
		}
	})
}

// arrived says that the body of a request was read to its end.
func arrived(w http.ResponseWriter) { w.Header().Del("Connection") }

// pacedWriter has a deadline while something is written, and none between: over HTTP/2 a deadline that passes resets the stream, though nothing waits to be
// written, and a watch may have nothing to say for long.
type pacedWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	pace    time.Duration
}

// Write implements http.ResponseWriter.
func (w *pacedWriter) Write(p []byte) (int, error) {
	w.bind()
	defer w.free()
	return w.ResponseWriter.Write(p)
}

// FlushError sends what was written, within the bound.
func (w *pacedWriter) FlushError() error {
	w.bind()
	defer w.free()
	return w.control.Flush()
}

// bind sets the deadline, and free takes it away; every writer of a http.Server has one.
func (w *pacedWriter) bind() { _ = w.control.SetWriteDeadline(time.Now().Add(w.pace)) }
func (w *pacedWriter) free() { _ = w.control.SetWriteDeadline(time.Time{}) }

// Unwrap is for http.ResponseController.
func (w *pacedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
