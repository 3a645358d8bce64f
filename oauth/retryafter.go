package oauth

import (
	"net/http"
	"time"

	"github.com/tokenbus/tokenbus/backoff"
	"github.com/tokenbus/tokenbus/refresh"
)

// retryAfter returns how long the endpoint asks to wait, 0 where it doesn't:
// Retry-After-Ms, else Retry-After as seconds or as a date. A date is counted
// from the answer's own Date, so that the two clocks need not agree.
func retryAfter(raw refresh.RawAnswer) time.Duration {
	if d, ok := backoff.RetryAfterMs(raw.Header["Retry-After-Ms"]); ok {
		return d
	}
	from := raw.ReceivedAt
	if date, err := http.ParseTime(raw.Header["Date"]); err == nil {
		from = date
	}
	d, _ := backoff.RetryAfter(raw.Header["Retry-After"], from)
	return d
}
