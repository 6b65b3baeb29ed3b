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

// httpGrace is what requests under way have to finish by themselves.
const httpGrace = 2 * time.Second

// An httpServer serves one listener, for operators.
type httpServer struct {
	srv    *http.Server
	cancel context.CancelFunc // ends the requests' context
	done   sync.WaitGroup     // the Serve call
}

// serveHTTP serves l, which it owns, until stop.
func serveHTTP(l net.Listener, h http.Handler, log *slog.Logger) *httpServer {
	ctx, cancel := context.WithCancel(context.Background())
	s := &httpServer{cancel: cancel, srv: &http.Server{
		Handler: h, BaseContext: func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}}
	s.done.Go(func() {
		if err := s.srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("listener ended", "address", address(l), "err", err)
		}
	})
	return s
}

// stop lets requests finish, then cancels them, and waits for them until ctx
// ends.
func (s *httpServer) stop(ctx context.Context) error {
	defer s.done.Wait()
	t := time.AfterFunc(httpGrace, s.cancel)
	defer t.Stop()
	defer s.cancel()
	if err := s.srv.Shutdown(ctx); err != nil {
		return errors.Join(err, s.srv.Close())
	}
	return nil
}
