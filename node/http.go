package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Bounds on the end of an httpServer.
const (
	httpGrace = 2 * time.Second // for requests to finish by themselves
	httpFlush = time.Second     // for the last answers to be read
)

// An httpServer serves one listener, for operators.
type httpServer struct {
	srv    *http.Server
	cancel context.CancelFunc // ends the requests' context
	done   sync.WaitGroup     // the Serve call

	requests sync.RWMutex // held for reading by each request; guards closed
	closed   bool
}

// serveHTTP serves l, which it owns, until stop.
func serveHTTP(l net.Listener, h http.Handler, log *slog.Logger) *httpServer {
	ctx, cancel := context.WithCancel(context.Background())
	s := &httpServer{cancel: cancel}
	s.srv = &http.Server{
		Handler: s.counted(h), BaseContext: func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}
	s.done.Go(func() {
		if err := s.srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("listener ended", "address", address(l), "err", err)
		}
	})
	return s
}

// counted lets stop wait for the requests of h: http.Server ends their
// connections, not them.
func (s *httpServer) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.RLock()
		defer s.requests.RUnlock()
		if s.closed {
			http.Error(w, "stopping", http.StatusServiceUnavailable)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// stop lets requests finish, then cancels them, and waits for all of them.
func (s *httpServer) stop() error {
	t := time.AfterFunc(httpGrace, s.cancel)
	s.requests.Lock()
	s.closed = true
	s.requests.Unlock()
	t.Stop()
	s.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), httpFlush)
	defer cancel()
	err := s.srv.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) { // who does not read, does not matter
		err = s.srv.Close()
	}
	s.done.Wait()
	return err
}
