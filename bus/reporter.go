package bus

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// reporter turns the connection's callbacks into log lines and hooks.
type reporter struct {
	log    *slog.Logger
	inside bool // the server is in this process, and its URL means nothing

	mu      sync.Mutex // held while a hook runs; guards refused
	hooks   Hooks
	refused bool // since the last connection; the log has it

	// first is the connection that was not made at once. The library reports
	// no refusal before the first connection; see delay.
	first atomic.Pointer[nats.Conn]
}

func newReporter(c Config) *reporter {
	return &reporter{log: c.logger().With("connection", c.Name), hooks: c.Hooks, inside: c.Server != nil}
}

func (r *reporter) install(opts *nats.Options) {
	opts.ConnectedCB = r.connected
	opts.ReconnectedCB = r.connected
	opts.DisconnectedErrCB = r.disconnected
	opts.ReconnectErrCB = func(_ *nats.Conn, err error) { r.failed(err) }
	opts.CustomReconnectDelayCB = r.delay
	opts.AsyncErrorCB = r.asyncError
	opts.ClosedCB = r.closed
}

// delay is called when all servers were tried n times.
func (r *reporter) delay(n int) time.Duration {
	if nc := r.first.Load(); nc != nil && refused(nc.LastError()) {
		r.failed(nc.LastError())
	}
	return reconnectDelay(n)
}

func (r *reporter) connected(nc *nats.Conn) {
	r.first.Store(nil)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused = false
	where := nc.ConnectedUrlRedacted()
	if r.inside {
		where = "in this process"
	}
	r.log.Info("connected to NATS", "server", where)
	if r.hooks.Connected != nil {
		r.hooks.Connected()
	}
}

func (r *reporter) disconnected(nc *nats.Conn, err error) {
	if nc.IsClosed() {
		return // we did it
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log.Warn("connection to NATS lost; reconnecting", "error", errorText(err))
	if r.hooks.Disconnected != nil {
		r.hooks.Disconnected(err)
	}
}

func (r *reporter) failed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if refused(err) {
		err = fmt.Errorf("%w (%w)", ErrCredentials, err)
		if !r.refused {
			r.refused = true
			r.log.Error("NATS refuses our credentials; trying again", "error", err)
		}
		if r.hooks.Refused != nil {
			r.hooks.Refused(err)
		}
		return
	}
	r.log.Debug("NATS is out of reach", "error", errorText(err))
	r.unreachable(err)
}

func (r *reporter) unreachable(err error) {
	if r.hooks.Unreachable != nil {
		r.hooks.Unreachable(err)
	}
}

func (r *reporter) asyncError(_ *nats.Conn, sub *nats.Subscription, err error) {
	switch {
	case refused(err):
		r.failed(err)
	case errors.Is(err, nats.ErrSlowConsumer):
		subject := ""
		if sub != nil {
			subject = sub.Subject
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.log.Warn("messages were dropped because they came faster than we took them", "subject", subject)
		if r.hooks.SlowConsumer != nil {
			r.hooks.SlowConsumer(subject)
		}
	case errors.Is(err, nats.ErrPermissionViolation):
		r.mu.Lock()
		defer r.mu.Unlock()
		r.log.Error("NATS does not permit what we tried; check the credentials' role", "error", err)
		if r.hooks.Forbidden != nil {
			r.hooks.Forbidden(err)
		}
	default:
		r.log.Warn("NATS reports an error", "error", err)
	}
}

func (r *reporter) closed(nc *nats.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hooks.Closed != nil {
		r.hooks.Closed(nc.LastError())
	}
}

func errorText(err error) string {
	if err == nil {
		return "connection closed"
	}
	return err.Error()
}
