package provider

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// announce tells the world of a committed document: shared cache first, then
// the event, then the bump. Only when all three are acknowledged is the mark
// cleared that makes the sweep announce it again. Announcing twice is
// harmless.
func (p *Provider) announce(ctx context.Context, a *reading) {
	if err := p.announceOnce(ctx, a); err != nil {
		p.log.Warn("announcement is incomplete; it will be repeated", "account", a.Key.String(), "version", a.Version, "rev", a.Rev, "error", err)
	}
}

func (p *Provider) announceOnce(ctx context.Context, a *reading) error {
	policy, _ := p.endpoint.Policy(a.Key.Platform())
	entry, err := p.sealView(viewOf(&a.Account, a.credentials, policy))
	if err != nil {
		return err
	}
	// A cache that is down must not keep the bump back: peers drop what they
	// have and read the store.
	cctx, done := context.WithTimeout(ctx, cacheTimeout)
	_, errCache := p.cache.Put(cctx, a.Key, entry)
	done()
	crashAt("cached")
	var errEvent error
	if a.Reason != "" {
		errEvent = p.withTimeout(ctx, func(ctx context.Context) error {
			return p.publisher.Refreshed(ctx, events.Refreshed{
				Key: a.Key, Version: a.Version, ExpiresAt: a.ExpiresAt, Reason: events.Reason(a.Reason), By: p.worker, At: a.UpdatedAt,
			})
		})
	}
	crashAt("published")
	errBump := p.withTimeout(ctx, func(ctx context.Context) error {
		return p.publisher.Bump(ctx, events.Bump{Key: a.Key, Version: a.Version, Rev: a.Rev, At: a.UpdatedAt})
	})
	if err := errors.Join(errCache, errEvent, errBump); err != nil {
		return err
	}
	crashAt("bumped")
	_, err = p.write(ctx, a, account.Guard{Rev: a.Rev}, account.Change{Fields: account.FieldAnnounce, At: a.UpdatedAt})
	if errors.Is(err, ErrConflict) {
		return nil // there is a newer rev, with an announcement of its own
	}
	return err
}

// tell publishes a status event in the background.
func (p *Provider) tell(a *account.Account, code, message string, until time.Time) {
	doc := *a
	p.background(func(ctx context.Context) { p.tellNow(ctx, &doc, code, message, until) })
}

func (p *Provider) tellNow(ctx context.Context, a *account.Account, code, message string, until time.Time) {
	ctx, cancel := context.WithTimeout(ctx, cacheTimeout)
	defer cancel()
	err := p.publisher.Status(ctx, events.Status{Key: a.Key, Status: a.Status, Code: code, Message: message, Until: until, At: p.now()})
	if err != nil {
		p.log.Warn("status event is not published", "account", a.Key.String(), "code", code, "error", err)
	}
}
