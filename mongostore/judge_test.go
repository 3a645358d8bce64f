package mongostore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
)

func TestJudge(t *testing.T) {
	command := func(code int32, labels ...string) error {
		return fmt.Errorf("wrapped: %w", mongo.CommandError{Code: code, Name: "Name", Message: "message", Labels: labels})
	}
	write := func(code int) error { return mongo.WriteException{WriteErrors: mongo.WriteErrors{{Code: code}}} }
	concern := func(code int, labels ...string) error {
		return mongo.WriteException{WriteConcernError: &mongo.WriteConcernError{Code: code}, Labels: labels}
	}
	network := func(err error) error {
		return mongo.CommandError{Message: err.Error(), Labels: []string{"NetworkError"}, Wrapped: err}
	}
	pattern := func(key string) bson.Raw {
		raw, err := bson.Marshal(bson.D{{Key: "keyPattern", Value: bson.D{{Key: key, Value: 1}}}})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	const retryable, nothing = "RetryableWriteError", "NoWritesPerformed"
	for name, c := range map[string]struct {
		err  error
		want class
	}{
		"nil":     {nil, other},
		"unknown": {errors.New("x"), other},

		"duplicate":                    {write(11000), duplicate},
		"duplicate, of a command":      {command(11000), duplicate},
		"duplicate, and unconfirmed":   {mongo.WriteException{WriteErrors: mongo.WriteErrors{{Code: 11000}}, WriteConcernError: &mongo.WriteConcernError{Code: 64}}, unconfirmed},
		"duplicate, by our key":        {mongo.WriteException{WriteErrors: mongo.WriteErrors{{Code: 11000, Raw: pattern("_id")}}}, duplicate},
		"duplicate, by another index":  {mongo.WriteException{WriteErrors: mongo.WriteErrors{{Code: 11000, Raw: pattern("label")}}}, misconfigured},
		"update, by another index":     {mongo.CommandError{Code: 11000, Raw: pattern("label")}, misconfigured},
		"write concern timed out":      {concern(64), unconfirmed},
		"write concern, stepping down": {concern(189, retryable), unconfirmed},
		"write concern, shutting down": {concern(91, retryable), unconfirmed},
		"write concern can't be had":   {concern(100), unconfirmed},
		"write concern, too late":      {concern(50), unconfirmed},

		"not primary":                 {command(10107, retryable), noPrimary},
		"not primary, nothing done":   {command(10107, retryable, nothing), noPrimary},
		"not primary, no label":       {command(10107), noPrimary},
		"not primary, of old":         {command(10058), noPrimary},
		"not primary, no secondary":   {command(13435), noPrimary},
		"neither primary nor other":   {command(13436), noPrimary},
		"stepped down":                {command(189, retryable), noPrimary},
		"interrupted by a step-down":  {command(11602, retryable), noPrimary},
		"interrupted by the shutdown": {command(11600, retryable), noPrimary},
		"shutting down":               {command(91, retryable), noPrimary},

		"the server's time is up":    {command(50), late},
		"exceeded time limit":        {command(262, retryable), late},
		"between servers, too late":  {command(202), late},
		"deadline":                   {fmt.Errorf("x: %w", context.DeadlineExceeded), late},
		"cancelled":                  {network(context.Canceled), late},
		"network, deadline":          {network(os.ErrDeadlineExceeded), late},
		"connection reset":           {network(&net.OpError{Op: "read", Err: syscall.ECONNRESET}), unreachable},
		"connection refused":         {&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, unreachable},
		"connection closed":          {network(io.EOF), unreachable},
		"no such host":               {&net.DNSError{Err: "no such host", Name: "h", IsNotFound: true}, unreachable},
		"host unreachable, mongos":   {command(6, retryable), unreachable},
		"socket exception, mongos":   {command(9001, retryable), unreachable},
		"network timeout, of mongos": {command(89, retryable), unreachable},

		"wrong password":             {command(18), refused},
		"wrong password, Atlas":      {command(8000), refused},
		"mechanism not there":        {command(334), refused},
		"no privilege":               {command(13), refused},
		"no privilege, one write":    {write(13), refused},
		"pool closed by a login":     {errors.New("connection pool was cleared: (AuthenticationFailed) Authentication failed."), refused},
		"our certificate":            {network(&net.OpError{Op: "remote error", Err: errors.New("tls: bad certificate")}), refused},
		"a certificate is wanted":    {&net.OpError{Op: "remote error", Err: errors.New("tls: certificate required")}, refused},
		"our certificate is missing": {&net.OpError{Op: "remote error", Err: errors.New("tls: handshake failure")}, refused},
		"another alert":              {&net.OpError{Op: "remote error", Err: errors.New("tls: internal error")}, unreachable},

		"name in the certificate": {&tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{}, Host: "h"}}, misconfigured},
		"unknown authority":       {network(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), misconfigured},
		"no TLS there":            {tls.RecordHeaderError{Msg: "x"}, misconfigured},
		"database in other case":  {write(13297), misconfigured},
		"no such namespace":       {command(73), misconfigured},
		"expired certificate":     {&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Cert: &x509.Certificate{}, Reason: x509.Expired}}, other},
	} {
		t.Run(name, func(t *testing.T) {
			if got := judge(c.err); got != c.want {
				t.Errorf("got class %d, want %d", got, c.want)
			}
		})
	}
}

// The server quotes the command that it refuses, with all that is in it.
func TestReason(t *testing.T) {
	err := mongo.CommandError{Code: 13, Name: "Unauthorized", Message: `not authorized on db to execute command { insert: "accounts", documents: [ { credentials: "sealed" } ] }`}
	if got, want := reason(err), "Unauthorized: not authorized on db to execute command"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, err := range []error{
		err,
		mongo.WriteException{WriteErrors: mongo.WriteErrors{{Code: 13, Message: err.Message}}},
		errors.New("two\nlines"),
	} {
		if got := reason(err); strings.Contains(got, "sealed") || strings.Contains(got, "\n") {
			t.Errorf("reason %q", got)
		}
	}
}
