package spool

import "github.com/tokenbus/tokenbus/refresh"

// FailSync makes the next sync of a stashed record fail, as a disk does that
// lost a write: the one after it succeeds.
func (s *Spool) FailSync(err error) {
	s.sync = func(string) error {
		s.sync = syncFile
		return err
	}
}

// Break makes the place's file one that can't be written.
func Break(p refresh.Place) error { return p.(*place).file.Close() }
