package node

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/covey-mail/covey/node/admin"
)

func TestMetricsListener(t *testing.T) {
	for _, debug := range []bool{false, true} {
		cfg := config(t.TempDir())
		cfg.Node.Debug = debug
		n := withUsers(t, cfg)
		send(t, n, "counted")
		pprof := 404
		if debug {
			pprof = 200
		}
		for path, want := range map[string]int{
			"/metrics": 200, "/healthz": 200, "/readyz": 200, "/status.json": 200, "/": 404, "/debug/pprof/": pprof, "/debug/pprof/cmdline": pprof,
		} {
			if got, _ := get(t, n, path); got != want {
				t.Errorf("debug %v: GET %s: got %d, want %d", debug, path, got, want)
			}
		}
		_, body := get(t, n, "/metrics")
		for _, want := range []string{"go_goroutines", `covey_smtp`, `covey_connections`, `covey_replica`} {
			if !strings.Contains(body, want) {
				t.Errorf("no %s among the metrics", want)
			}
		}
		_, body = get(t, n, "/status.json")
		var s admin.Status
		if err := json.Unmarshal([]byte(body), &s); err != nil || s.Node != n.folder.id.String() || len(s.Shards) != 3 || len(s.Peers) != 1 {
			t.Errorf("/status.json: %v, %+v", err, s)
		}
		n.ready.Store(false)
		if got, body := get(t, n, "/readyz"); got != 503 || !strings.Contains(body, "starting or stopping") {
			t.Errorf("GET /readyz before the end of the start: got %d %q, want 503", got, body)
		}
		if got, _ := get(t, n, "/healthz"); got != 200 {
			t.Errorf("GET /healthz before the end of the start: got %d, want 200", got)
		}
	}
}
