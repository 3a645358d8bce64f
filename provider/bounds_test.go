package provider_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
)

func TestP10LabelIsBounded(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	most := strings.Repeat("l", 1<<10)
	r := putRequest("x", []byte(`{"access_token":"a","expires_at":4102444800}`))
	r.Label = new(most + "l")
	_, err := p.Put(t.Context(), r)
	badRequest(t, "put", err, "label")
	r.Label = new(most)
	if doc, err := p.Put(t.Context(), r); err != nil || doc.Label != most {
		t.Fatalf("%+v %v", doc, err)
	}
	_, err = p.Patch(t.Context(), events.PatchRequest{Platform: "demo", ID: "x", Label: new(most + "l")})
	badRequest(t, "patch", err, "label")
	if doc, err := p.Patch(t.Context(), events.PatchRequest{Platform: "demo", ID: "x", Label: new(most[1:])}); err != nil || doc.Label != most[1:] {
		t.Errorf("%+v %v", doc, err)
	}
}

// A page of accounts with long labels fits into a message, and the pages
// together have each account once. An account that is larger than a page comes
// by itself.
func TestListPagesFitIntoAMessage(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	docs := map[account.Key]account.Account{}
	var want []string
	for i := range 250 {
		id := fmt.Sprintf("x%03d", i)
		a := account.Account{Key: key(id), Type: "oauth", Status: account.Active, Version: 1, Rev: 1, Label: strings.Repeat("<", 1<<10), CreatedAt: f.clock.Now()}
		if i == 100 {
			a.Label = strings.Repeat("l", 600<<10) // from before labels were bounded
		}
		docs[a.Key] = a
		want = append(want, id)
	}
	f.store.Restore(docs)
	var got []string
	pages := 0
	for r := (events.ListRequest{Limit: 200}); ; pages++ {
		page, err := p.List(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(page)
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > 513<<10 && len(page.Accounts) > 1 || len(page.Accounts) == 0 || len(page.Accounts) > r.Limit {
			t.Errorf("a page of %d accounts has %d bytes", len(page.Accounts), len(text))
		}
		for _, a := range page.Accounts {
			got = append(got, a.ID)
		}
		if r.Cursor = page.NextCursor; r.Cursor == "" {
			break
		}
	}
	if strings.Join(got, " ") != strings.Join(want, " ") || pages < 4 {
		t.Errorf("%d pages after the first: %v", pages, got)
	}
}

// What grows when it is encoded is refused as what came that large.
func TestP10PutIsBoundedAsItIsKept(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	r := putRequest("x", []byte(`{}`))
	r.Credentials = []byte(`{"access_token":"a","note":"` + strings.Repeat("<", 60<<10) + `"}`)
	_, err := p.Put(t.Context(), r)
	badRequest(t, "60 KiB of <", err, "131072")
}

// A change is refused that would make an account too large to be saved once
// more; what makes it smaller is not, however large it is.
func TestP10PatchIsBounded(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", time.Hour)
	patch := func(name string, value jsonRaw) error {
		_, err := p.Patch(t.Context(), events.PatchRequest{Platform: "demo", ID: "x", Extra: map[string]jsonRaw{name: value}})
		return err
	}
	long := jsonRaw(`"` + strings.Repeat("x", 60<<10) + `"`)
	for _, name := range []string{"a", "b"} {
		if err := patch(name, long); err != nil {
			t.Fatal(err)
		}
	}
	badRequest(t, "a third", patch("c", long), "131072")
	if v := f.doc("x").Version; v != 3 {
		t.Errorf("version %d", v)
	}
	if err := patch("a", jsonRaw(`null`)); err != nil {
		t.Error(err)
	}
	if err := patch("c", long); err != nil {
		t.Error(err)
	}
}
