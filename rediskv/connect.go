package rediskv

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const clientName = "tokenbus" // in CLIENT LIST, unless the URL has another

// connect returns the driver's client. Each dial, read and write takes the
// timeout at most, each call as long as its context allows, and none is
// repeated: see the package comment.
func (t *target) connect(timeout time.Duration) redis.UniversalClient {
	silent := &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	switch {
	case t.sentinel != nil:
		o := t.sentinel
		o.OnConnect = t.greet
		o.ContextTimeoutEnabled = true
		o.MaxRetries, o.DialerRetries = -1, 1
		o.DialTimeout, o.ReadTimeout, o.WriteTimeout = timeout, timeout, timeout
		o.PipelinePoolSize = -1 // nothing is pipelined
		o.DisableIdentity = true
		if o.ClientName == "" {
			o.ClientName = clientName
		}
		return redis.NewFailoverClient(o)
	case t.cluster != nil:
		o := t.cluster
		o.OnConnect = t.greet
		o.ContextTimeoutEnabled = true
		o.MaxRetries, o.DialerRetries = -1, 1
		o.DialTimeout, o.ReadTimeout, o.WriteTimeout = timeout, timeout, timeout
		o.PipelinePoolSize = -1
		o.DisableIdentity = true
		o.MaintNotificationsConfig = silent
		o.DisableRoutingPolicies = true // every command has its key, or may go anywhere
		o.NewClient = func(o *redis.Options) *redis.Client {
			node := redis.NewClient(o)
			node.AddHook(sentOnce{})
			return node
		}
		if o.ClientName == "" {
			o.ClientName = clientName
		}
		return redis.NewClusterClient(o)
	default:
		o := t.single
		o.OnConnect = t.greet
		o.ContextTimeoutEnabled = true
		o.MaxRetries, o.DialerRetries = -1, 1
		o.DialTimeout, o.ReadTimeout, o.WriteTimeout = timeout, timeout, timeout
		o.PipelinePoolSize = -1
		o.DisableIdentity = true
		o.MaintNotificationsConfig = silent
		if o.ClientName == "" {
			o.ClientName = clientName
		}
		return redis.NewClient(o)
	}
}

// sentOnce sits between a Cluster's client and that of one node. The Cluster's
// client must follow redirections, and for that sends a command up to four
// times; but it does so after a lost connection, too, when the command may have
// been carried out, and no option tells the two apart. It doesn't repeat what
// it doesn't know, so sentOnce hides the errors that aren't answers.
type sentOnce struct{}

// hidden is an error that the driver can't look into.
type hidden struct{ err error }

func (h *hidden) Error() string { return h.err.Error() }

func hide(err error) error {
	if _, answer := errors.AsType[redis.Error](err); err == nil || answer || errors.Is(err, redis.ErrClosed) {
		return err // redirected, refused, or never sent
	}
	return &hidden{err}
}

// reveal undoes hide.
func reveal(err error) error {
	if h, ok := errors.AsType[*hidden](err); ok {
		return h.err
	}
	return err
}

// DialHook implements redis.Hook.
func (sentOnce) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements redis.Hook.
func (sentOnce) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := hide(next(ctx, cmd))
		cmd.SetErr(err)
		return err
	}
}

// ProcessPipelineHook implements redis.Hook. Commands come in a pipeline behind
// ASKING, where a slot moves.
func (sentOnce) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := hide(next(ctx, cmds))
		for _, cmd := range cmds {
			cmd.SetErr(hide(cmd.Err()))
		}
		return err
	}
}
