package oauth

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tokenbus/tokenbus/provider"
)

// maxRetryAfter is the longest wait that an endpoint may ask for.
const maxRetryAfter = 24 * time.Hour

// retryAfter returns how long the endpoint asks to wait, 0 where it doesn't:
// Retry-After-Ms, or Retry-After as seconds or as a date. A date is counted
// from the answer's own Date, so that the two clocks need not agree.
func retryAfter(raw provider.RawAnswer) time.Duration {
	if n, err := strconv.ParseFloat(strings.TrimSpace(raw.Header["Retry-After-Ms"]), 64); err == nil && n > 0 {
		return wait(n, time.Millisecond)
	}
	text := strings.TrimSpace(raw.Header["Retry-After"])
	if n, err := strconv.ParseFloat(text, 64); err == nil {
		return wait(n, time.Second)
	}
	until, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	from := raw.ReceivedAt
	if date, err := http.ParseTime(raw.Header["Date"]); err == nil {
		from = date
	}
	return min(max(until.Sub(from), 0), maxRetryAfter)
}

func wait(n float64, unit time.Duration) time.Duration {
	if math.IsNaN(n) || n <= 0 {
		return 0
	}
	return time.Duration(min(n*float64(unit), float64(maxRetryAfter)))
}
