package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
)

const pprofPath = "/debug/pprof/"

// newPprofHandler returns what --pprof-addr serves: net/http/pprof without
// cmdline, since URLs on the command line may have passwords. The package also
// registers itself on [http.DefaultServeMux], which nothing here serves.
func newPprofHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pprofPath, pprof.Index) // and every profile by its name
	mux.HandleFunc("GET "+pprofPath+"profile", pprof.Profile)
	mux.HandleFunc("GET "+pprofPath+"trace", pprof.Trace)
	mux.HandleFunc("GET "+pprofPath+"symbol", pprof.Symbol)
	mux.HandleFunc("POST "+pprofPath+"symbol", pprof.Symbol)
	return mux
}

func (w *worker) openPprof() error {
	l, err := listen("pprof-addr", w.cfg.PprofAddr)
	if l == nil {
		return err
	}
	// localhost is what this machine takes it for.
	if addr, ok := l.Addr().(*net.TCPAddr); !ok || !addr.IP.IsLoopback() {
		_ = l.Close()
		return settingError("pprof-addr", fmt.Errorf("%q: is %s on this machine; want a loopback address, or none", w.cfg.PprofAddr, l.Addr()))
	}
	w.pprof = l
	w.onClose(func() { _ = l.Close() })
	return nil
}
