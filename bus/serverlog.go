package bus

import (
	"fmt"
	"log/slog"
)

// serverLog passes on what the embedded server warns of. The server calls
// Fatalf where its own logger would end the process.
type serverLog struct {
	logger *slog.Logger
	fatal  chan string // capacity 1: the first
}

func (l *serverLog) Warnf(format string, v ...any) {
	l.logger.Warn("embedded NATS server warns", "message", fmt.Sprintf(format, v...))
}

func (l *serverLog) Errorf(format string, v ...any) {
	l.logger.Error("embedded NATS server reports an error", "message", fmt.Sprintf(format, v...))
}

func (l *serverLog) Fatalf(format string, v ...any) {
	select {
	case l.fatal <- fmt.Sprintf(format, v...):
	default:
	}
}

func (l *serverLog) Noticef(string, ...any) {}
func (l *serverLog) Debugf(string, ...any)  {}
func (l *serverLog) Tracef(string, ...any)  {}
