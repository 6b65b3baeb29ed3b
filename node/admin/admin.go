// Package admin is how operator commands reach a running node: HTTP with JSON
// bodies over a Unix socket in the data folder, which only the node's own user
// and root can open. There is no other authentication.
//
// An operation is a POST to /v1/NAME with a request object; the answer is the
// response object, or an Error with a status other than 200. Request bodies are
// at most MaxRequest bytes.
package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/covey-mail/covey"
)

// MaxRequest bounds a request body in bytes.
const MaxRequest = 8 << 20

// SocketName is the socket's name in the data folder.
const SocketName = "admin.sock"

// An Error is the body of an answer that says no.
type Error struct {
	Kind    covey.Kind `json:"kind"`
	Message string     `json:"message"`
}

// Handle adds an operation to mux. fn's error is sent to the caller as it is:
// whoever reaches the socket is an operator.
func Handle[Req, Resp any](mux *http.ServeMux, name string, fn func(context.Context, Req) (Resp, error)) {
	mux.HandleFunc("POST /v1/"+name, func(w http.ResponseWriter, r *http.Request) {
		var req Req
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, MaxRequest))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&req); err != nil {
			status, kind := http.StatusBadRequest, covey.Invalid
			if errors.As(err, new(*http.MaxBytesError)) {
				status, kind = http.StatusRequestEntityTooLarge, covey.TooBig
			}
			reply(w, status, Error{kind, fmt.Sprintf("request of %s: %v", name, err)})
			return
		}
		// The time that a request may take to come is not how long it may be worked on;
		// where the server has one, the end of that would end the context.
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
		resp, err := fn(r.Context(), req)
		if err != nil {
			reply(w, http.StatusUnprocessableEntity, Error{covey.KindOf(err), err.Error()})
			return
		}
		reply(w, http.StatusOK, resp)
	})
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// The peer may be gone; there is no one else to tell.
	_ = json.NewEncoder(w).Encode(v)
}

// A Client speaks to the node that runs on a data folder. It is safe for
// concurrent use.
type Client struct {
	data string
	http http.Client
}

// NewClient returns a client; it connects with the first call.
func NewClient(data string) *Client {
	c := &Client{data: data}
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", data+"/"+SocketName)
		},
	}
	return c
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Call runs an operation on the node. The error of the operation keeps its Kind;
// one without a node to speak to says how to start it.
func Call[Resp any](ctx context.Context, c *Client, name string, req any) (Resp, error) {
	var resp Resp
	body, err := json.Marshal(req)
	if err != nil {
		return resp, fmt.Errorf("encode request of %s: %w", name, err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://covey/v1/"+name, bytes.NewReader(body))
	if err != nil {
		return resp, fmt.Errorf("make request of %s: %w", name, err)
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := c.http.Do(r)
	if err != nil {
		return resp, c.explain(err)
	}
	defer answer.Body.Close()
	return resp, decode(answer, &resp)
}

func decode(answer *http.Response, into any) error {
	const maxAnswer = 256 << 20
	dec := json.NewDecoder(io.LimitReader(answer.Body, maxAnswer))
	if answer.StatusCode == http.StatusOK {
		if err := dec.Decode(into); err != nil {
			return fmt.Errorf("read the node's answer: %w", err)
		}
		return nil
	}
	var e Error
	if err := dec.Decode(&e); err != nil || e.Message == "" {
		return covey.Errorf(covey.Internal, "the node answered %s: it may be of another version", answer.Status)
	}
	return covey.Errorf(e.Kind, "%s", e.Message)
}

// Temporary reports whether an operation that failed may be asked for again a
// moment later.
func Temporary(err error) bool {
	return errors.Is(err, covey.Unavailable) || errors.Is(err, covey.Unknown)
}

// explain turns a failed connection into what to do about it.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return covey.Errorf(covey.Unavailable, "no node runs on %s: start it with: covey serve --data %s", c.data, c.data)
	case errors.Is(err, syscall.ECONNREFUSED):
		return covey.Errorf(covey.Unavailable, "the node of %s is not running (its socket is left over): start it with: covey serve --data %s", c.data, c.data)
	case errors.Is(err, os.ErrPermission):
		return covey.Errorf(covey.Denied, "may not open %s/%s: run this as the user that runs the node, or as root", c.data, SocketName)
	}
	return fmt.Errorf("reach the node of %s: %w", c.data, err)
}
