package bus

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/tokenbus/tokenbus/events"
)

// Auth is how the embedded server knows who connects.
type Auth string

// The kinds of authentication.
const (
	AuthNKey Auth = "nkey" // one nkey for each role
	AuthNone Auth = "none" // everybody may do everything
)

// ListenNone makes the embedded server reachable in this process only.
const ListenNone = "none"

const (
	serverDir    = "nats"
	startTimeout = 30 * time.Second
	// Both ends look for each other this often and give up after two silent
	// intervals: a peer that vanished gets no requests 10 s later.
	pingInterval = 5 * time.Second
	pingsOut     = 2
	// A connection that takes nothing of what is kept for it is cut after two or
	// three seconds (10 s is the server's own deadline), with up to this much kept
	// meanwhile. Nearer to that the server slows down whoever sends to it: a worker,
	// with the replies to all others. One that takes some hundred KiB a second is
	// not cut.
	writeDeadline = time.Second
	maxPending    = 256 << 20
)

// ServerConfig configures the embedded server.
type ServerConfig struct {
	// Listen is the address, host:port, or [ListenNone]. Port 0 means any.
	Listen string
	// DataDir is the folder under which "nats" with streams and keys is made.
	DataDir string
	// Auth defaults to AuthNKey.
	Auth Auth
	// Subjects are what the roles' permissions are about.
	Subjects events.Subjects
	// MaxMemory bounds streams that are kept in memory, in bytes; 0 means 256 MiB.
	MaxMemory int64
	// MaxStore bounds streams on disk, in bytes; 0 leaves it to the server
	// (three quarters of what is free).
	MaxStore int64
	// SyncInterval other than 0 gives up durability for speed, for tests and
	// demonstrations: writes are acknowledged before they are synced to disk.
	// By default each is synced first.
	SyncInterval time.Duration
	// Logger takes what the server warns of; nil discards it.
	Logger *slog.Logger
}

// Server is a NATS server with JetStream inside this process.
type Server struct {
	ns  *server.Server
	cfg ServerConfig
}

// StartServer starts the server and returns when it takes connections. Keys
// for the roles are made at the first start and kept.
func StartServer(cfg ServerConfig) (*Server, error) {
	cfg.Auth = cmp.Or(cfg.Auth, AuthNKey)
	cfg.MaxMemory = cmp.Or(cfg.MaxMemory, 256<<20)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	opts, err := cfg.options()
	if err != nil {
		return nil, err
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("start embedded NATS server: %w", err)
	}
	log := &serverLog{logger: cfg.Logger, fatal: make(chan string, 1)}
	ns.SetLoggerV2(log, false, false, false)
	s := &Server{ns, cfg}
	if err := s.start(log); err != nil {
		s.Shutdown()
		return nil, err
	}
	s.warn()
	return s, nil
}

func (c ServerConfig) options() (*server.Options, error) {
	var problems []error
	if c.DataDir == "" {
		problems = append(problems, errors.New("start embedded NATS server: no data folder"))
	}
	if c.Subjects == (events.Subjects{}) {
		problems = append(problems, errors.New("start embedded NATS server: no subjects"))
	}
	opts := &server.Options{
		ServerName:             "tokenbus",
		StoreDir:               filepath.Join(c.DataDir, serverDir),
		JetStream:              true,
		JetStreamMaxMemory:     c.MaxMemory,
		JetStreamMaxStore:      c.MaxStore,
		SyncAlways:             c.SyncInterval == 0,
		SyncInterval:           c.SyncInterval,
		PingInterval:           pingInterval,
		MaxPingsOut:            pingsOut,
		WriteDeadline:          writeDeadline,
		WriteTimeout:           server.WriteTimeoutPolicyRetry,
		MaxPending:             maxPending,
		NoSigs:                 true,
		DisableJetStreamBanner: true,
	}
	if err := listen(c.Listen, opts); err != nil {
		problems = append(problems, err)
	}
	if c.Auth != AuthNKey && c.Auth != AuthNone {
		problems = append(problems, fmt.Errorf("start embedded NATS server: auth %q: want nkey or none", c.Auth))
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	if err := os.MkdirAll(opts.StoreDir, 0o700); err != nil {
		return nil, fmt.Errorf("start embedded NATS server: %w", err)
	}
	if c.Auth == AuthNone {
		return opts, nil
	}
	for _, role := range Roles() {
		public, err := publicKey(opts.StoreDir, role)
		if err != nil {
			return nil, err
		}
		opts.Nkeys = append(opts.Nkeys, &server.NkeyUser{Nkey: public, Permissions: permissions(role, c.Subjects)})
	}
	return opts, nil
}

func listen(address string, opts *server.Options) error {
	if address == ListenNone {
		opts.DontListen = true
		return nil
	}
	host, port, err := net.SplitHostPort(address)
	n, perr := strconv.Atoi(port)
	if err != nil || perr != nil || n < 0 || n > 65535 {
		return fmt.Errorf("start embedded NATS server: address %q: want host:port", address)
	}
	// The server takes port 0 for its default.
	opts.Host, opts.Port = cmp.Or(host, "0.0.0.0"), n
	if n == 0 {
		opts.Port = server.RANDOM_PORT
	}
	return nil
}

// start waits until the server is ready or says why it isn't.
func (s *Server) start(log *serverLog) error {
	s.ns.Start() // returns when the streams are recovered and the port is bound
	select {
	case text := <-log.fatal:
		return s.startError(text)
	default:
	}
	if !s.ns.ReadyForConnections(startTimeout) {
		return fmt.Errorf("start embedded NATS server: not ready within %s", startTimeout)
	}
	return nil
}

// startError turns what stopped the server into one line with the remedy.
func (s *Server) startError(text string) error {
	if s.ns.Addr() == nil && s.cfg.Listen != ListenNone {
		// The server keeps the listen error to itself; asking for the port
		// again tells a port in use from an address that isn't ours.
		l, err := net.Listen("tcp", s.cfg.Listen)
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			return fmt.Errorf("start embedded NATS server: %s is in use: stop what runs there, or choose another address with --nats-listen, or join that server with --nats-url nats://%s", s.cfg.Listen, s.cfg.Listen)
		case err != nil:
			return fmt.Errorf("start embedded NATS server: %w: choose another address with --nats-listen", err)
		}
		_ = l.Close()
	}
	return fmt.Errorf("start embedded NATS server in %s: %s", filepath.Join(s.cfg.DataDir, serverDir), text)
}

func (s *Server) warn() {
	if s.cfg.Listen == ListenNone {
		return
	}
	if s.cfg.Auth == AuthNone {
		s.cfg.Logger.Warn("embedded NATS server asks for no credentials: everyone who reaches it gets every token", "address", s.Addr())
	}
	if a, ok := s.ns.Addr().(*net.TCPAddr); ok && !a.IP.IsLoopback() {
		s.cfg.Logger.Warn("embedded NATS server listens beyond this machine, without TLS: tokens cross the network in the clear", "address", s.Addr())
	}
}

// Addr returns the address that the server listens on, or "" if it doesn't.
func (s *Server) Addr() string {
	if a := s.ns.Addr(); a != nil {
		return a.String()
	}
	return ""
}

// URL returns the address as a NATS URL, or "" if the server doesn't listen.
func (s *Server) URL() string {
	if a := s.Addr(); a != "" {
		return "nats://" + a
	}
	return ""
}

// InProcessConn connects to the server without the network; see
// [github.com/nats-io/nats.go.InProcessServer].
func (s *Server) InProcessConn() (net.Conn, error) { return s.ns.InProcessConn() }

// KeyFile returns the file with the nkey seed of the role, or "" if the
// server asks for none.
func (s *Server) KeyFile(role Role) string {
	if s.cfg.Auth == AuthNone {
		return ""
	}
	return KeyFile(s.cfg.DataDir, role)
}

// Shutdown stops the server and waits until its streams are closed. It may be
// called more than once.
func (s *Server) Shutdown() {
	s.ns.Shutdown()
	s.ns.WaitForShutdown()
}
