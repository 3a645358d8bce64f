package account

import (
	"errors"
	"net/url"
)

// CheckProxyURL reports what is wrong with a proxy's URL, without quoting it
// (it may hold a password). The empty string is no proxy and fine.
func CheckProxyURL(s string) error {
	if s == "" {
		return nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return errors.New("not a URL")
	}
	switch u.Scheme {
	case "http", "https", "socks5", "socks5h":
	default:
		return errors.New("want http://, https:// or socks5://")
	}
	if u.Hostname() == "" {
		return errors.New("the host is missing")
	}
	return nil
}
