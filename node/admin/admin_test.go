package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/covey-mail/covey"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// on serves h on the socket of a data folder and returns a client.
func on(t *testing.T, h http.Handler) *Client {
	t.Helper()
	return onServer(t, httptest.NewUnstartedServer(h))
}

func onServer(t *testing.T, s *httptest.Server) *Client {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, SocketName))
	if err != nil {
		t.Fatal(err)
	}
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	c := NewClient(dir)
	t.Cleanup(c.Close)
	return c
}

func TestCallCarriesBothWays(t *testing.T) {
	mux := http.NewServeMux()
	Handle(mux, "echo", func(_ context.Context, p Page) (Page, error) { return p, nil })
	c := on(t, mux)
	want := Page{Prefix: "ä\x00<&>", After: "b", Limit: -3}
	for range 2 {
		got, err := Call[Page](t.Context(), c, "echo", want)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("-want +got:\n%s", d)
		}
	}
}

// A check of all bodies takes longer than a request may take to come.
func TestWorkOutlivesTheReadTimeout(t *testing.T) {
	const read = 50 * time.Millisecond
	mux := http.NewServeMux()
	Handle(mux, "check", func(ctx context.Context, _ Page) (Done, error) {
		select {
		case <-ctx.Done():
			return Done{}, ctx.Err()
		case <-time.After(6 * read):
			return Done{}, nil
		}
	})
	s := httptest.NewUnstartedServer(mux)
	s.Config.ReadTimeout = read
	if _, err := Call[Done](t.Context(), onServer(t, s), "check", Page{}); err != nil {
		t.Error(err)
	}
}

func TestEveryKindCrosses(t *testing.T) {
	mux := http.NewServeMux()
	Handle(mux, "fail", func(_ context.Context, p Page) (Done, error) {
		return Done{}, fmt.Errorf("outer: %w", covey.Errorf(covey.Kind(p.Limit), "with %%d and ä"))
	})
	Handle(mux, "plain", func(context.Context, Empty) (Done, error) { return Done{}, errors.New("of no kind") })
	c := on(t, mux)
	for k := covey.Internal; k <= covey.Loop; k++ {
		_, err := Call[Done](t.Context(), c, "fail", Page{Limit: int(k)})
		if !errors.Is(err, k) || err.Error() != "outer: with %d and ä" {
			t.Errorf("%v: got %v", k, err)
		}
	}
	if _, err := Call[Done](t.Context(), c, "plain", Empty{}); covey.KindOf(err) != covey.Internal || err.Error() != "of no kind" {
		t.Errorf("got %v", err)
	}
}

func TestForeignAnswers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		body   string
	}{
		{"not JSON", 200, "<html>"}, {"nothing", 200, ""}, {"another type", 200, `{"kind": []}`},
		{"page of a proxy", 502, "<html>"}, {"error without text", 500, "{}"}, {"kind out of range", 422, `{"kind":4711,"message":"x"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := on(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tt.status)
				fmt.Fprint(w, tt.body)
			}))
			if got, err := Call[Error](t.Context(), c, "x", Empty{}); err == nil {
				t.Errorf("taken for %+v", got)
			}
		})
	}
}

func TestCallEndsWithItsContext(t *testing.T) {
	c := on(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Call[Done](ctx, c, "x", Empty{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
}

func TestSecret(t *testing.T) {
	text := func(s string) *string { return &s }
	for _, tt := range []struct {
		r    UserRequest
		want string // empty: refused
	}{
		{UserRequest{Password: text("secret")}, "{PLAIN}secret"},
		{UserRequest{Password: text("{SHA}not a hash")}, "{PLAIN}{SHA}not a hash"},
		{UserRequest{Hash: text("{SHA}hash")}, "{SHA}hash"},
		{UserRequest{Hash: text("$6$hash")}, ""},
		{UserRequest{Hash: text("")}, ""},
		{UserRequest{Password: text("")}, ""},
		{UserRequest{}, ""},
		{UserRequest{Password: text("a"), Hash: text("{PLAIN}a")}, ""},
	} {
		got, err := tt.r.Secret()
		if got != tt.want || errors.Is(err, covey.Invalid) != (tt.want == "") {
			t.Errorf("got %q, %v; want %q", got, err, tt.want)
		}
	}
}

// FuzzHandle sends any octets as a request.
func FuzzHandle(f *testing.F) {
	mux := http.NewServeMux()
	Handle(mux, "op", func(_ context.Context, r UserRequest) (string, error) { return r.Secret() })
	for _, s := range []string{
		`{"address":"a@b.example","password":"x"}`, `{"quota":1e400}`, `{"hash":"{"}`, "", "null", "[]", `{"address":1}`, `{"no":1}`,
		strings.Repeat("[", 20000),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/op", strings.NewReader(string(body))))
		if w.Code != 200 && w.Code != 400 && w.Code != 422 {
			t.Errorf("status %d", w.Code)
		}
	})
}
