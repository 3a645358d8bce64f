package events_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/tokenbus/tokenbus/events"
)

// The examples of docs/protocol.md are golden files: what a reader copies is
// what a worker sends.
func TestPageShowsGoldenFiles(t *testing.T) {
	goldens := map[string]bool{}
	files, err := filepath.Glob("testdata/*.golden")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		goldens[string(text)] = true
	}
	shown := map[string]int{}
	for _, block := range regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$").FindAllStringSubmatch(readPage(t), -1) {
		language, text := block[1], block[2]
		shown[language]++
		switch language {
		case "json", "": // bodies and headers
			if !goldens[text] {
				t.Errorf("no golden file is\n%s", text)
			}
		case "nats":
			for _, content := range frames(t, text) {
				// A request is what the asker makes of it.
				if !goldens[content] && content != "\n" && content != `{"min_version":7}`+"\n" {
					t.Errorf("no golden file is\n%s", content)
				}
			}
		}
	}
	if shown["json"] < 10 || shown[""] < 4 || shown["nats"] != 1 {
		t.Errorf("found %v", shown)
	}
}

func readPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "docs", "protocol.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// The page's tables have every error, status code, verb and stream.
func TestPageTellsAll(t *testing.T) {
	page := readPage(t)
	var rows []string
	for _, code := range constants(t, ".", func(_, typ string) bool { return typ == "Code" }) {
		rows = append(rows, fmt.Sprintf("\n| `%s` | %d | ", code, events.Code(code).HTTPStatus()))
	}
	for _, verb := range constants(t, ".", isVerb) {
		rows = append(rows, "\n| `"+verb+"` | ")
	}
	for _, stream := range []string{events.StreamEvents, events.StreamBumps} {
		rows = append(rows, "\n| `"+stream+"` | ")
	}
	for _, row := range rows {
		if !strings.Contains(page, row) {
			t.Errorf("docs/protocol.md has no row%s", row)
		}
	}
	for _, code := range constants(t, ".", isStatusCode) { // a row may have several
		if !regexp.MustCompile("(?m)^\\| [^|]*`" + code + "`[^|]* \\| ").MatchString(page) {
			t.Errorf("docs/protocol.md has no row for the status code %s", code)
		}
	}
}

// frames returns the headers and bodies of the messages that pass over a
// connection, and checks that each is as long as its first line says.
func frames(t *testing.T, trace string) []string {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(trace, "\n"), "\n")
	next := func() string {
		if len(lines) == 0 {
			t.Fatal("the trace ends within a message")
		}
		line := strings.TrimPrefix(strings.TrimLeft(lines[0], "<>"), " ")
		lines = lines[1:]
		return line
	}
	var contents []string
	for len(lines) > 0 {
		first := next()
		words := strings.Fields(first)
		var lengths []string // as the first line should end
		switch words[0] {
		case "SUB":
			continue
		case "HMSG":
			header := []string{next()} // NATS/1.0
			for line := next(); line != ""; line = next() {
				header = append(header, line)
			}
			body := next()
			contents = append(contents, strings.Join(header[1:], "\n")+"\n", body+"\n")
			n := len(strings.Join(header, "\r\n") + "\r\n\r\n")
			lengths = []string{strconv.Itoa(n), strconv.Itoa(n + len(body))}
		case "MSG", "PUB":
			body := next()
			contents = append(contents, body+"\n")
			lengths = []string{strconv.Itoa(len(body))}
		default:
			t.Fatalf("no message begins with %q", first)
		}
		if want := " " + strings.Join(lengths, " "); !strings.HasSuffix(first, want) {
			t.Errorf("%s: want the end%s", first, want)
		}
	}
	return contents
}
