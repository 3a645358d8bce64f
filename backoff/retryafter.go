package backoff

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// MaxRetryAfter bounds what a server may ask for: a date of next year is a
// mistake, and obeying it would lose the account.
const MaxRetryAfter = 24 * time.Hour

// RetryAfter reads the value of a Retry-After header, which is a number of
// seconds or an HTTP date (RFC 9110 §10.2.3); now is when the answer came. A
// date in the past is 0, anything above [MaxRetryAfter] is MaxRetryAfter. ok
// is false if the header is absent or neither form.
func RetryAfter(header string, now time.Time) (d time.Duration, ok bool) {
	header = strings.Trim(header, " \t")
	if header == "" {
		return 0, false
	}
	if strings.Trim(header, "0123456789") == "" {
		n, err := strconv.ParseInt(header, 10, 64)
		if err != nil || n > int64(MaxRetryAfter/time.Second) { // too many digits for an int64 is too long as well
			return MaxRetryAfter, true
		}
		return time.Duration(n) * time.Second, true
	}
	t, err := http.ParseTime(header)
	if err != nil {
		return 0, false
	}
	return min(max(t.Sub(now), 0), MaxRetryAfter), true
}

// RetryAfterMs reads the value of a Retry-After-Ms header, which some APIs
// send beside Retry-After: a number of milliseconds, perhaps with a fraction.
// It is bounded as in [RetryAfter] and goes first where both are there.
func RetryAfterMs(header string) (d time.Duration, ok bool) {
	header = strings.Trim(header, " \t")
	if header == "" || strings.Trim(header, "0123456789.") != "" {
		return 0, false
	}
	ms, err := strconv.ParseFloat(header, 64)
	if math.IsInf(ms, 1) {
		return MaxRetryAfter, true
	}
	if err != nil {
		return 0, false
	}
	if ms >= float64(MaxRetryAfter/time.Millisecond) {
		return MaxRetryAfter, true
	}
	return time.Duration(ms * float64(time.Millisecond)), true
}
