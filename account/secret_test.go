package account_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"gopkg.in/yaml.v3"
)

const needle = "sk-very-secret"

// leaks reports whether text holds the needle, in clear or as the numbers or
// hexadecimal digits that fmt makes of bytes.
func leaks(text string) bool {
	for _, form := range []string{
		needle, fmt.Sprintf("%x", needle), fmt.Sprintf("%X", needle), strings.Trim(fmt.Sprint([]byte(needle)), "[]"),
	} {
		if strings.Contains(text, form) {
			return true
		}
	}
	return false
}

// holders are all the places that a secret sits in.
func holders() map[string]any {
	s := account.NewSecret(needle)
	c := account.Credentials{
		AccessToken: s, RefreshToken: s, IDToken: s, ClientSecret: s, ProxyURL: s, TokenType: "Bearer",
		ExpiresAt: time.Unix(1, 0), Extra: account.Extra{"cookie": json.RawMessage(`"` + needle + `"`)},
	}
	return map[string]any{
		"secret": s, "pointer": &s, "slice": []account.Secret{s}, "map": map[string]account.Secret{"k": s}, "as map key's value": map[string]any{"k": s},
		"struct": struct{ S account.Secret }{s}, "hidden field": struct{ s account.Secret }{s}, "credentials": c, "pointer to credentials": &c,
		"extra": c.Extra, "hidden credentials": struct{ c account.Credentials }{account.Credentials{AccessToken: s}},
	}
}

func TestSecretUnderEveryVerb(t *testing.T) {
	for name, v := range holders() {
		for _, flags := range []string{"", "+", "#", "-", " ", "0", "20", ".3", "+#020.3"} {
			for _, verb := range "vTtbcdoOqxXUeEfFgGspw!" {
				if strings.ContainsRune("pw", verb) && strings.Contains(name, "credentials") || name == "extra" && verb == 'w' {
					continue // a mistake of the format string, which go vet refuses; only a Secret stands it
				}
				if text := fmt.Sprintf("%"+flags+string(verb), v); leaks(text) {
					t.Errorf("%s: %%%s%c prints %q", name, flags, verb, text)
				}
			}
		}
		if text := fmt.Sprint(v) + fmt.Sprintln(v); leaks(text) {
			t.Errorf("%s: Print prints %q", name, text)
		}
		if err := fmt.Errorf("use %v", v); leaks(err.Error()) {
			t.Errorf("%s: an error says %q", name, err)
		}
	}
	if got := fmt.Sprintf("%v %s %q %+v %#v %d %x", account.NewSecret(needle), account.NewSecret(needle), account.NewSecret(needle),
		account.NewSecret(needle), account.NewSecret(needle), account.NewSecret(needle), account.NewSecret(needle)); got != strings.TrimSpace(strings.Repeat("[secret] ", 7)) {
		t.Errorf("printed %q", got)
	}
}

func TestSecretInLogs(t *testing.T) {
	for name, v := range holders() {
		var out bytes.Buffer
		for _, h := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
			log := slog.New(h)
			log.Info("x", "value", v, slog.Group("g", "value", v))
			log.With("value", v).Info("y")
		}
		if leaks(out.String()) {
			t.Errorf("%s: logged %q", name, out.String())
		}
	}
}

func TestSecretRefusesToMarshal(t *testing.T) {
	s := account.NewSecret(needle)
	encoders := map[string]func(any) ([]byte, error){
		"json":        json.Marshal,
		"json indent": func(v any) ([]byte, error) { return json.MarshalIndent(v, "", " ") },
		"xml":         xml.Marshal,
		"yaml":        yaml.Marshal,
		"gob": func(v any) ([]byte, error) {
			var buf bytes.Buffer
			err := gob.NewEncoder(&buf).Encode(v)
			return buf.Bytes(), err
		},
	}
	for name, encode := range encoders {
		t.Run(name, func(t *testing.T) {
			for _, v := range []any{s, &s, struct{ S account.Secret }{s}, []account.Secret{s}} {
				out, err := encode(v)
				// xml refuses unnamed structs before it comes to the secret.
				if !errors.Is(err, account.ErrSecret) && !(err != nil && name == "xml") {
					t.Errorf("%T: %q, %v; want ErrSecret", v, out, err)
				}
				if leaks(string(out)) {
					t.Errorf("%T: encoded %q", v, out)
				}
			}
			if out, err := encode(account.Credentials{AccessToken: s}); err == nil || leaks(string(out)) {
				t.Errorf("Credentials: %q, %v", out, err)
			}
		})
	}
}

func TestSecretInTemplates(t *testing.T) {
	var out bytes.Buffer
	err := template.Must(template.New("").Parse(`{{.}} {{print .}} {{printf "%s" .}} {{html .}}`)).Execute(&out, account.NewSecret(needle))
	if err != nil || leaks(out.String()) {
		t.Errorf("%q, %v", out.String(), err)
	}
}

func TestSecret(t *testing.T) {
	var zero account.Secret
	s := account.NewSecret(needle)
	switch {
	case s.Reveal() != needle:
		t.Errorf("Reveal = %q", s.Reveal())
	case zero.Reveal() != "" || !zero.IsZero() || !account.NewSecret("").IsZero() || s.IsZero():
		t.Error("IsZero is wrong")
	case !s.Equal(account.NewSecret(needle)) || s.Equal(account.NewSecret(needle+"x")) || s.Equal(zero) || !zero.Equal(account.NewSecret("")):
		t.Error("Equal is wrong")
	}
	if fmt.Sprint(zero) != "[secret]" {
		t.Errorf("the empty secret prints %v: it tells that it is empty", zero)
	}
}
