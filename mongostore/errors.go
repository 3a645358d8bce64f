package mongostore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/tokenbus/tokenbus/ledger"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
)

// Errors that trying again doesn't end; [Final] tells of both.
var (
	// ErrCredentials: the server refuses our credentials, or our user may not
	// do what the store must.
	ErrCredentials = errors.New("the server refuses the credentials")
	// ErrConfig: the URL is wrong, or doesn't go with the deployment that it
	// names.
	ErrConfig = errors.New("wrong configuration")
)

// damaged is an error about one document: it is [ledger.ErrDamaged].
type damaged struct{ text string }

func (e *damaged) Error() string        { return e.text }
func (e *damaged) Is(target error) bool { return target == ledger.ErrDamaged }

// ErrNewer: the document has a form that this program doesn't know. A newer
// worker wrote it. Nothing was written.
var ErrNewer = &damaged{"a newer worker wrote it"}

// Final reports whether only a person can end the error: it is about the URL,
// our credentials or our privileges. Any other error of a [Store] may end by
// itself.
func Final(err error) bool {
	return errors.Is(err, ErrCredentials) || errors.Is(err, ErrConfig)
}

// class is what an error of the driver means.
//
// Only duplicate says what became of a write: it was not done. After all
// others it may have been done, or be done later: the error is that of the
// driver's last attempt, and an earlier one may have reached the server. So
// nothing is tried again here. The driver does, for as long as the call's
// deadline lets it, where the server recognizes the repeat.
type class int

const (
	other         class = iota
	duplicate           // a document of that key exists; nothing was written
	unconfirmed         // it was carried out, and may yet be undone: no majority has it in time
	noPrimary           // the server is no primary, steps down or shuts down
	late                // the deadline passed, or the caller gave up
	unreachable         // no connection, or one that broke
	refused             // final: credentials, certificate or privileges
	misconfigured       // final: what was asked for can't be had there
)

// MongoDB's error codes by what they mean.
var codes = []struct {
	class class
	codes []int
}{
	{refused, []int{
		13,   // Unauthorized
		18,   // AuthenticationFailed
		334,  // MechanismUnavailable
		8000, // AtlasError: bad auth
	}},
	{misconfigured, []int{
		73,    // InvalidNamespace
		13297, // DatabaseDifferCase
	}},
	{noPrimary, []int{
		91,    // ShutdownInProgress
		189,   // PrimarySteppedDown
		10058, // LegacyNotPrimary
		10107, // NotWritablePrimary
		11600, // InterruptedAtShutdown
		11602, // InterruptedDueToReplStateChange
		13435, // NotPrimaryNoSecondaryOk
		13436, // NotPrimaryOrSecondary
	}},
	{late, []int{
		50,  // MaxTimeMSExpired
		202, // NetworkInterfaceExceededTimeLimit
		262, // ExceededTimeLimit
	}},
	{unreachable, []int{
		6,    // HostUnreachable
		7,    // HostNotFound
		89,   // NetworkTimeout
		9001, // SocketException
	}},
}

// judge returns what an error of the driver means.
func judge(err error) class {
	if e, ok := errors.AsType[mongo.WriteException](err); ok && e.WriteConcernError != nil {
		return unconfirmed // beside whatever else: that rests on what the server may lose
	}
	if e, ok := errors.AsType[mongo.ServerError](err); ok {
		switch {
		case strangeIndex(err):
			return misconfigured
		case mongo.IsDuplicateKeyError(err):
			return duplicate
		}
		for _, c := range codes {
			if slices.ContainsFunc(c.codes, e.HasErrorCode) {
				return c.class
			}
		}
	}
	switch {
	// A call that finds the connection pool closed because another one's login
	// was refused gets the driver's reason as text alone.
	case err != nil && strings.Contains(err.Error(), "(AuthenticationFailed)"), refusesCertificate(err):
		return refused
	case wrongCertificate(err), is[tls.RecordHeaderError](err):
		return misconfigured
	case errors.Is(err, context.Canceled), mongo.IsTimeout(err):
		return late
	case mongo.IsNetworkError(err), is[net.Error](err), isClosed(err):
		return unreachable
	}
	return other
}

// refusesCertificate reports whether the server doesn't take our certificate,
// or wants one.
func refusesCertificate(err error) bool {
	e, ok := errors.AsType[*net.OpError](err)
	if !ok || e.Op != "remote error" { // crypto/tls: an alert, of a type that it keeps to itself
		return false
	}
	alert := e.Err.Error()
	return strings.Contains(alert, "certificate") || strings.Contains(alert, "access denied") || strings.Contains(alert, "handshake failure")
}

// wrongCertificate reports whether we don't take the server's certificate, for
// a reason that doesn't go away with time or with a right clock.
func wrongCertificate(err error) bool {
	return is[x509.HostnameError](err) || is[x509.UnknownAuthorityError](err)
}

// strangeIndex reports whether a document was refused by a unique index that
// isn't ours: another account has the same value, and ours is not there.
func strangeIndex(err error) bool {
	if !mongo.IsDuplicateKeyError(err) {
		return false
	}
	var raw bson.Raw
	if e, ok := errors.AsType[mongo.WriteException](err); ok && len(e.WriteErrors) > 0 {
		raw = e.WriteErrors[0].Raw
	} else if e, ok := errors.AsType[mongo.CommandError](err); ok {
		raw = e.Raw
	}
	keys, ok := raw.Lookup("keyPattern").DocumentOK()
	return ok && keys.Lookup("_id").IsZero()
}

func isClosed(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// failure is an error in our own words.
type failure struct {
	text  string
	kind  error // ErrCredentials or ErrConfig; nil: neither
	cause error // the driver's
}

func (f *failure) Error() string { return f.text }

func (f *failure) Unwrap() []error {
	if f.kind == nil {
		return []error{f.cause}
	}
	return []error{f.kind, f.cause}
}

// explain puts an error of the driver into words that say what to do, and
// marks final ones.
func (s *Store) explain(err error) error {
	if err == nil {
		return nil
	}
	f := &failure{cause: err}
	switch c := judge(err); c {
	case refused:
		f.kind, f.text = ErrCredentials, s.address.refusal(err)
	case misconfigured:
		f.kind, f.text = ErrConfig, s.address.mismatch(s.address.shown, err)
	case unconfirmed:
		f.text = "no majority has confirmed the write in time, its outcome is unknown: " + reason(err)
	case noPrimary:
		f.text = "MongoDB has no primary at the moment: " + reason(err)
	case late, unreachable, other:
		if errors.Is(err, context.Canceled) {
			return err
		}
		switch seen, text := s.sight.trouble(s.address); {
		case text == "":
			return err
		case seen == refused:
			f.kind, f.text = ErrCredentials, text
		case seen == misconfigured:
			f.kind, f.text = ErrConfig, text
		default:
			f.text = text
		}
	default:
		return err
	}
	return f
}

// refusal says what a refused login or command needs.
func (a *address) refusal(err error) string {
	e, fromServer := errors.AsType[mongo.ServerError](err)
	switch {
	case refusesCertificate(err):
		return fmt.Sprintf("MongoDB refuses our TLS certificate, or that we have none (%s): correct tlsCertificateKeyFile in %q", reason(err), a.shown)
	case fromServer && e.HasErrorCode(13) && a.user == "":
		return fmt.Sprintf("MongoDB wants a login (%s): give user and password in %q", reason(err), a.shown)
	case fromServer && e.HasErrorCode(13):
		return fmt.Sprintf("MongoDB doesn't let user %q do this in database %q (%s): grant it the role readWrite there, or correct the database's name in %q",
			a.user, a.database, reason(err), a.shown)
	default:
		return fmt.Sprintf("MongoDB refuses the login of user %q with authSource %q (%s): correct user, password or authSource in %q; a user that was made in database admin needs authSource=admin",
			a.user, a.authSource, reason(err), a.shown)
	}
}

// mismatch says what must be changed for the server at host.
func (a *address) mismatch(host string, err error) string {
	switch {
	case is[x509.HostnameError](err):
		return fmt.Sprintf("the certificate of MongoDB at %s is not for that name (%s): correct the host in %q, or the certificate", host, reason(err), a.shown)
	case is[x509.UnknownAuthorityError](err):
		return fmt.Sprintf("the certificate of MongoDB at %s is signed by an authority that this machine doesn't know (%s): name the authority's file with tlsCAFile in %q", host, reason(err), a.shown)
	case is[tls.RecordHeaderError](err):
		return fmt.Sprintf("MongoDB at %s doesn't speak TLS (%s): take tls=true out of %q, or switch TLS on there", host, reason(err), a.shown)
	case strangeIndex(err):
		return fmt.Sprintf("a unique index that is not tokenbus's refuses the document (%s): drop it from collection accounts of %q", reason(err), a.shown)
	default:
		return fmt.Sprintf("MongoDB takes no database %q (%s): correct the database's name in %q", a.database, reason(err), a.shown)
	}
}

// silence says why the server at host doesn't answer. A server closes a
// connection that speaks TLS without being asked to, or the reverse.
func (a *address) silence(host string, err error) string {
	text := host + ": " + reason(err)
	switch {
	case !isClosed(err):
		return text
	case a.tls:
		return text + " (does it speak TLS, as the URL says?)"
	default:
		return text + " (does it want tls=true?)"
	}
}

// reason returns an error in few words, without those that only say where it
// passed through.
func reason(err error) string {
	if e, ok := errors.AsType[mongo.WriteException](err); ok && e.WriteConcernError != nil {
		return named(e.WriteConcernError.Name, e.WriteConcernError.Message)
	}
	if e, ok := errors.AsType[mongo.WriteException](err); ok && len(e.WriteErrors) > 0 {
		return unquoted(e.WriteErrors[0].Message)
	}
	if e, ok := errors.AsType[mongo.CommandError](err); ok && e.Code != 0 {
		return named(e.Name, unquoted(e.Message))
	}
	if e, ok := errors.AsType[x509.HostnameError](err); ok {
		return e.Error()
	}
	if e, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return e.Error()
	}
	if e, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return e.Error()
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return e.Op + ": " + e.Err.Error()
	}
	switch {
	case mongo.IsTimeout(err):
		return "no answer"
	case isClosed(err):
		return "connection closed"
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}

// unquoted returns a server's message without the command: it quotes a refused
// one whole.
func unquoted(message string) string {
	text, _, _ := strings.Cut(message, " {")
	return text
}

func named(name, text string) string {
	if name == "" {
		return text
	}
	return name + ": " + text
}
