package oauth

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/tokenbus/tokenbus/account"
)

// maxFile bounds a provider file and maxSecretFile a client secret's, in bytes.
const (
	maxFile       = 1 << 20
	maxSecretFile = 64 << 10
)

// FileError is everything that is wrong with a provider file.
type FileError struct {
	Name     string
	Problems []FileProblem // in the order of their lines
}

// FileProblem is one thing that is wrong with a provider file. Its text never
// quotes what may be a secret.
type FileProblem struct {
	Line int // from 1; 0: the file as a whole
	Text string
}

func (e *FileError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		if lines[i] = e.Name + ": " + p.Text; p.Line > 0 {
			lines[i] = fmt.Sprintf("%s:%d: %s", e.Name, p.Line, p.Text)
		}
	}
	return strings.Join(lines, "\n")
}

// LoadFile reads a provider file; see [ParseFile].
func LoadFile(path string) (Definitions, error) {
	data, err := readRegular(path, maxFile)
	if err != nil {
		return nil, fmt.Errorf("read provider file: %w", err)
	}
	return ParseFile(path, data, os.Getenv)
}

// ParseFile reads a provider file and returns the built-in definitions with
// the file's over them. A platform that is built in keeps every field that the
// file doesn't give; a new one starts from the defaults and needs token_url.
// Without client_id each account must bring its own. A client secret without
// auth means auth: body.
//
// name stands in errors, and the folder it is in is where a relative
// client_secret_file is looked for. Client secrets are read here: a variable
// or file that is missing is a problem. An error is a [*FileError] with all
// problems.
func ParseFile(name string, data []byte, getenv func(string) string) (Definitions, error) {
	p := &fileParser{name: name, getenv: getenv, out: Builtin()}
	if len(data) > maxFile {
		p.problem(0, "is larger than 1 MiB")
	} else {
		p.file(data)
	}
	if len(p.problems) > 0 {
		slices.SortStableFunc(p.problems, func(a, b FileProblem) int { return a.Line - b.Line })
		return nil, &FileError{name, p.problems}
	}
	return p.out, nil
}

type fileParser struct {
	name     string
	getenv   func(string) string
	out      Definitions
	problems []FileProblem
}

func (p *fileParser) problem(line int, format string, args ...any) {
	p.problems = append(p.problems, FileProblem{line, fmt.Sprintf(format, args...)})
}

func (p *fileParser) file(data []byte) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return
	} else if err != nil {
		p.syntax(err)
		return
	}
	if err := dec.Decode(new(yaml.Node)); err == nil {
		p.problem(0, "holds more than one YAML document")
	} else if !errors.Is(err, io.EOF) {
		p.syntax(err)
	}
	if len(doc.Content) != 1 || null(doc.Content[0]) {
		return
	}
	for key, value := range p.mapping(doc.Content[0], "the file") {
		if key.Value != "providers" {
			p.problem(key.Line, "%q: unknown field", clip(key.Value))
			continue
		}
		if null(value) {
			continue
		}
		for platform, fields := range p.mapping(value, "providers") {
			p.platform(platform, fields)
		}
	}
}

// syntaxError is what yaml.v3 says of a file that is not YAML.
var syntaxError = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// syntax reports a YAML error. Those about anchors quote the file and are cut
// down to their line.
func (p *fileParser) syntax(err error) {
	line, text := 0, ""
	if m := syntaxError.FindStringSubmatch(err.Error()); m != nil {
		line, _ = strconv.Atoi(m[1])
		text = ": " + m[2]
	}
	if strings.Contains(text, "anchor") {
		text = ""
	}
	p.problem(line, "is not YAML%s", text)
}

// platform reads one platform's fields.
func (p *fileParser) platform(key, node *yaml.Node) {
	platform := key.Value
	if _, err := account.NewKey(platform, "x"); err != nil {
		keyErr, _ := errors.AsType[*account.KeyError](err)
		p.problem(key.Line, "platform %q: %s", clip(platform), keyErr.Reason)
		return
	}
	d, known := p.out[platform]
	if !known {
		d = defaults()
	}
	f := &fieldParser{fileParser: p, prefix: "providers." + platform, d: d.clone(), lines: map[string]int{}}
	if !null(node) {
		for name, value := range p.mapping(node, f.prefix) {
			f.lines[name.Value] = name.Line
			f.field(name, value)
		}
	}
	f.secret()
	for _, pr := range f.d.problems() {
		if f.bad[pr.field] {
			continue // named already
		}
		line, ok := f.lines[pr.field]
		if !ok {
			line = key.Line
		}
		p.problem(line, "%s.%s: %s", f.prefix, pr.field, pr.text)
	}
	p.out[platform] = f.d
}

// mapping ranges over the entries of a mapping and reports one that isn't, a
// name that is no text and a name that is given twice.
func (p *fileParser) mapping(node *yaml.Node, what string) func(yield func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		node := resolve(node)
		if node.Kind != yaml.MappingNode {
			p.problem(node.Line, "%s: want a mapping", what)
			return
		}
		seen := map[string]bool{}
		for i := 0; i+1 < len(node.Content); i += 2 {
			key, value := resolve(node.Content[i]), resolve(node.Content[i+1])
			switch {
			case key.Kind != yaml.ScalarNode:
				p.problem(key.Line, "%s: want names as keys", what)
			case seen[key.Value]:
				p.problem(key.Line, "%s: %q is given twice", what, clip(key.Value))
			default:
				seen[key.Value] = true
				if !yield(key, value) {
					return
				}
			}
		}
	}
}

// resolve follows an alias.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

func null(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}

// readRegular reads a regular file of at most limit bytes.
func readRegular(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &os.PathError{Op: "read", Path: path, Err: errors.New("is not a file")}
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = &os.PathError{Op: "read", Path: path, Err: fmt.Errorf("is larger than %d bytes", limit)}
	}
	return data, err
}
