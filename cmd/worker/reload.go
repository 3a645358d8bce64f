package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/oauth"
	"github.com/tokenbus/tokenbus/provider"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/rotation"
	"github.com/tokenbus/tokenbus/seal"
)

// endpoints are the token endpoints of the provider file as it was last read.
// It is a [refresh.Endpoint].
type endpoints struct{ p atomic.Pointer[readEndpoints] }

type readEndpoints struct {
	*oauth.Client
	slowest   time.Duration // the longest patience with an exchange
	variables []string      // of the environment that client secrets are taken from
}

func (e *endpoints) now() *readEndpoints { return e.p.Load() }

// set puts other endpoints in use. Exchanges that run keep the patience of the
// old ones, which a stop has to have as well.
func (e *endpoints) set(read *readEndpoints) {
	if old := e.now(); old != nil {
		read.slowest = max(read.slowest, old.slowest)
	}
	e.p.Store(read)
}

func (e *endpoints) Policy(platform string) (rotation.Policy, bool) { return e.now().Policy(platform) }

func (e *endpoints) Send(ctx context.Context, req refresh.SendRequest) (refresh.RawAnswer, error) {
	return e.now().Send(ctx, req)
}

func (e *endpoints) Judge(platform string, raw refresh.RawAnswer) rotation.Verdict {
	return e.now().Judge(platform, raw)
}

func (e *endpoints) Describe(platform string, c account.Credentials) account.Credentials {
	return e.now().Describe(platform, c)
}

// readProviders reads the provider file. An error names the setting.
func (w *worker) readProviders() (*readEndpoints, error) {
	definitions := oauth.Builtin()
	if w.cfg.Providers != "" {
		var err error
		if definitions, err = oauth.LoadFile(w.cfg.Providers); err != nil {
			return nil, settingError("providers", err)
		}
	}
	read := &readEndpoints{}
	for _, d := range definitions {
		read.slowest = max(read.slowest, d.Timeout)
		read.variables = append(read.variables, d.ClientSecretEnv)
	}
	cfg := oauth.Config{Definitions: definitions, UserAgent: "tokenbus/" + version(), Logger: w.log}
	if w.clock != nil {
		cfg.Now = w.clock.Now
	}
	var err error
	if read.Client, err = oauth.New(cfg); err != nil {
		return nil, settingError("providers", err)
	}
	return read, nil
}

// keyring is the keyset as it was last read. It is a [ledger.Resealer].
type keyring struct{ p atomic.Pointer[seal.Sealer] }

func (k *keyring) now() *seal.Sealer { return k.p.Load() }

func (k *keyring) Seal(plaintext, associated []byte) ([]byte, error) {
	return k.now().Seal(plaintext, associated)
}

func (k *keyring) Open(sealed, associated []byte) ([]byte, error) {
	return k.now().Open(sealed, associated)
}

func (k *keyring) Fingerprint(secret account.Secret) string { return k.now().Fingerprint(secret) }

func (k *keyring) Current(sealed []byte) bool { return k.now().Current(sealed) }

// readKeyset reads the keyset anew. One that can't open what the present one
// seals, or that has other fingerprints, is refused: nothing that is stored
// could be read, and no spent token recognized.
func (w *worker) readKeyset() (*seal.Sealer, error) {
	s, err := seal.Load(w.cfg.keysetPath())
	if err != nil {
		return nil, settingError("keyset", err)
	}
	ours, err := w.sealer.now().CheckValue()
	if err != nil {
		return nil, fmt.Errorf("make check value of the keyset: %w", err)
	}
	if err := s.Check(ours); err != nil {
		return nil, w.foreignKeyset(err)
	}
	return s, nil
}

// reload reads the provider file and the keyset anew. Each that is wrong stays
// as it is, and the log says why.
func (w *worker) reload(p *provider.Provider) {
	if read, err := w.readProviders(); err != nil {
		w.log.Error("provider file is not taken; the old one stays in use", "error", err)
	} else {
		w.endpoint.set(read)
		p.EndpointsChanged()
		w.log.Info("provider file is read again", "platforms", read.Platforms())
	}
	if s, err := w.readKeyset(); err != nil {
		w.log.Error("keyset is not taken; the old one stays in use", "error", err)
	} else {
		w.sealer.p.Store(s)
		w.log.Info("keyset is read again", "keys", s.Keys(), "primary", s.Primary())
	}
}

// reloadOnHangup calls reload at every SIGHUP until ctx ends.
func (w *worker) reloadOnHangup(ctx context.Context, p *provider.Provider) {
	for {
		select {
		case <-w.hangups:
			w.reload(p)
		case <-ctx.Done():
			return
		}
	}
}

// notifyHangups returns a channel that every SIGHUP is sent to. A second one
// before the first has been taken is the same.
func notifyHangups() (hangups <-chan os.Signal, stop func()) {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGHUP)
	return ch, func() { signal.Stop(ch) }
}
