// Package loginfile recognizes the files in which programs keep an OAuth login
// and reads the accounts out of them.
//
// A file is known by its shape, never by its name. Formats are entries of one
// table, a file of this package each: Codex, Claude Code, Gemini CLI,
// CLIProxyAPI, sub2api exports, Google's application default credentials, and
// the body of accounts.put itself, alone or as an array.
//
// # Ids
//
// An account's id comes from the user and the workspace together, so that two
// people of one team don't collide, nor one person's two workspaces:
//
//	openai     chatgpt_user_id and account_id
//	anthropic  account uuid and organization uuid
//	gemini     the id token's sub
//
// The parts are joined with "__". In a part A-Z, a-z, 0-9 and - stay; any other
// byte becomes _ and two lower-case hex digits ("a.b" is "a_2eb"), so that no
// two logins share an id. One that would be too long ends in a hash.
//
// The package does no I/O, and its errors never quote what a file holds.
package loginfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tokenbus/tokenbus/account"
)

// The platforms that formats belong to.
const (
	openai      = "openai"
	anthropic   = "anthropic"
	gemini      = "gemini"
	antigravity = "antigravity"
	xai         = "xai"
	kimi        = "kimi"
)

// The formats, as [Login.Format] names them.
const (
	FormatCodex      = "codex"
	FormatClaudeCode = "claude-code"
	FormatGeminiCLI  = "gemini-cli"
	FormatCLIProxy   = "cliproxyapi"
	FormatSub2API    = "sub2api"
	FormatADC        = "google-adc"
	FormatTokenbus   = "tokenbus" // the body of accounts.put
)

// Errors that an [*Error] wraps.
var (
	// ErrUnknownFormat: the file is none of the formats.
	ErrUnknownFormat = errors.New("not a login file that tokenbus knows")
	// ErrNoLogin: the format is known, but there is no OAuth login in it.
	ErrNoLogin = errors.New("no OAuth login in it")
)

// Error says what is wrong with a file, or with one account in it. It holds
// nothing that the file holds.
type Error struct {
	File   string
	Entry  string // which of several accounts, such as "accounts[3]"; "" for the whole file
	Reason string
	kind   error
}

func (e *Error) Error() string {
	text := e.File + ": "
	if e.Entry != "" {
		text += e.Entry + ": "
	}
	if e.kind != nil {
		text += e.kind.Error()
		if e.Reason != "" {
			text += ": "
		}
	}
	return text + e.Reason
}

// Unwrap returns [ErrUnknownFormat], [ErrNoLogin] or nil.
func (e *Error) Unwrap() error { return e.kind }

// File is what there is to recognize.
type File struct {
	Name string // for messages alone
	Data []byte
	// ClaudeAccount is the content of Claude Code's .claude.json, which says
	// whose login a .credentials.json is; nil if there is none.
	ClaudeAccount []byte
}

// Login is one account as a file describes it.
type Login struct {
	Format   string // one of the Format constants
	Platform string // "" where the file doesn't say
	// ID is the account's id, legal in an [account.Key]. NeedsID: the file
	// doesn't say whose login it is, and ID is "".
	ID      string
	NeedsID bool
	Label   string // for people: an email address, a name; "" where there is none
	Type    string // "oauth"
	// IfVersion is the condition that the body of accounts.put may carry.
	IfVersion   *account.Version
	Credentials account.Credentials
	Notes       []Note
}

// Note is something that whoever imports the login should know.
type Note struct {
	Code string // one of the Note constants
	Text string
}

// The codes of notes.
const (
	NoteTwoWriters   = "two_writers"   // the program that owns the file goes on refreshing the login
	NoteShared       = "shared"        // the same, and it does no harm
	NoteSetupToken   = "setup_token"   // a long-lived token without a refresh token
	NoteNoRefresh    = "no_refresh"    // no refresh token: it ends with its access token
	NoteClientSecret = "client_secret" // the worker needs a client secret to refresh it
	NoteAccountFile  = "account_file"  // the id comes from another file
	NotePaused       = "paused"        // its program had switched it off
)

func (l *Login) note(code, text string) { l.Notes = append(l.Notes, Note{code, text}) }

// identify sets the id made of parts; if one is missing there is none.
func (l *Login) identify(parts ...string) {
	l.ID = makeID(parts...)
	l.NeedsID = l.ID == ""
}

// Key returns the account's key; an error says what is wrong without quoting
// it, or what is missing.
func (l Login) Key() (account.Key, error) {
	switch {
	case l.Platform == "":
		return account.Key{}, errors.New("the file doesn't say which platform it is for")
	case l.ID == "":
		return account.Key{}, errors.New("the file doesn't say whose login it is")
	}
	key, err := account.NewKey(l.Platform, l.ID)
	if e, ok := errors.AsType[*account.KeyError](err); ok {
		return key, errors.New(e.Reason)
	}
	return key, err
}

// format is one kind of file.
type format struct {
	name  string
	match func(o object) bool
	// read returns the logins and says what is wrong by o.wrong, or with an
	// entry in its problems.
	read func(f File, o object) ([]Login, []*Error)
}

// formats returns the table. The first match counts.
func formats() []format {
	return []format{
		{FormatClaudeCode, isClaudeCode, readClaudeCode},
		{FormatCodex, isCodex, one(readCodex)},
		{FormatCLIProxy, isCLIProxy, one(readCLIProxy)},
		{FormatADC, isADC, one(readADC)},
		{FormatSub2API, isSub2API, readSub2API},
		{FormatTokenbus, isPlain, one(readPlain)},
		{FormatGeminiCLI, isGeminiCLI, one(readGeminiCLI)},
	}
}

// one makes the read of a format whose files hold a single account.
func one(read func(o object, l *Login) *Error) func(File, object) ([]Login, []*Error) {
	return func(_ File, o object) ([]Login, []*Error) {
		var l Login
		if e := read(o, &l); e != nil {
			return nil, []*Error{e}
		}
		return []Login{l}, nil
	}
}

// Parse returns the logins in a file. Of a file with several accounts some may
// be of no use: then it returns the others and an error that joins an [*Error]
// for each. Every Login that is returned has a token and, unless NeedsID, a
// legal id.
func Parse(f File) ([]Login, error) {
	data := bytes.TrimPrefix(f.Data, []byte("\xef\xbb\xbf")) // written by some editors
	var logins []Login
	var problems []*Error
	if trimmed := bytes.TrimLeft(data, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '[' {
		logins, problems = parseArray(data)
	} else {
		logins, problems = parseObject(f, data)
	}
	errs := make([]error, len(problems))
	for i, p := range problems {
		p.File = f.Name
		errs[i] = p
	}
	return logins, errors.Join(errs...)
}

func parseObject(f File, data []byte) ([]Login, []*Error) {
	o, err := parse(data)
	if err != nil {
		return nil, []*Error{{Reason: err.Error(), kind: ErrUnknownFormat}}
	}
	for _, format := range formats() {
		if format.match(o) {
			return finish(format, f, o)
		}
	}
	return nil, []*Error{{kind: ErrUnknownFormat}}
}

// parseArray reads an array of bodies of accounts.put.
func parseArray(data []byte) ([]Login, []*Error) {
	var logins []Login
	var problems []*Error
	known := false
	ok := elements(data, func(i int, item json.RawMessage) {
		o, err := parse(item)
		if err == nil && isPlain(o) {
			known = true
			l, p := finish(format{FormatTokenbus, isPlain, one(readPlain)}, File{}, o)
			logins, problems = append(logins, l...), append(problems, within(fmt.Sprintf("[%d]", i), p)...)
			return
		}
		problems = append(problems, &Error{Entry: fmt.Sprintf("[%d]", i), Reason: `want an object with "platform", "id" and "credentials"`})
	})
	if !ok {
		return nil, []*Error{{Reason: "not JSON", kind: ErrUnknownFormat}}
	}
	if !known {
		return nil, []*Error{{kind: ErrUnknownFormat}}
	}
	return logins, problems
}

// within says in which entry of a file the problems are.
func within(entry string, problems []*Error) []*Error {
	for _, p := range problems {
		p.Entry = entry
	}
	return problems
}

// finish reads o and checks what every format must deliver.
func finish(format format, f File, o object) ([]Login, []*Error) {
	logins, problems := format.read(f, o)
	if wrong := o.problem(); wrong != "" {
		return nil, []*Error{{Reason: wrong}}
	}
	if len(logins)+len(problems) == 0 {
		return nil, []*Error{{Reason: "it is an empty list", kind: ErrNoLogin}}
	}
	for i := range logins {
		logins[i].Format = format.name
		logins[i].Type = "oauth"
	}
	return logins, problems
}

// usable returns an Error unless the login can be imported.
func usable(l *Login) *Error {
	c := l.Credentials
	if c.AccessToken.IsZero() && c.RefreshToken.IsZero() {
		return &Error{Reason: "neither an access token nor a refresh token", kind: ErrNoLogin}
	}
	if err := account.CheckProxyURL(c.ProxyURL.Reveal()); err != nil {
		return &Error{Reason: "the proxy's URL: " + err.Error()}
	}
	if l.Platform != "" && l.ID != "" {
		if _, err := l.Key(); err != nil {
			return &Error{Reason: err.Error()}
		}
	}
	if c.RefreshToken.IsZero() && !slices.ContainsFunc(l.Notes, func(n Note) bool { return n.Code == NoteSetupToken }) {
		l.note(NoteNoRefresh, "no refresh token: it is served until its access token ends, then a new login is needed")
	}
	return nil
}
