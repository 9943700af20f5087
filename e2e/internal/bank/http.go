package bank

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"
)

// Get returns what an ops address answers; any status will do.
func Get(t testing.TB, address, path string) string {
	t.Helper()
	body, _, err := get(t.Context(), address, path)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func get(ctx context.Context, address, path string) (body string, code int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, http.NoBody)
	if err != nil {
		return "", 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", 0, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return "", 0, fmt.Errorf("read %s: %w", request.URL, err)
	}
	return string(text), response.StatusCode, nil
}
