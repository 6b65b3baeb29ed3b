package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey/node"
)

// environment is what a source sees of the environment.
func environment(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := vars[name]
		return v, ok
	}
}

func configFile(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "covey.toml")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

const sample = "../../deploy/covey.toml"

func TestSampleFileIsTheDefaults(t *testing.T) {
	got, err := source{file: sample, getenv: environment(nil)}.load()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(node.DefaultConfig("/var/lib/covey", 0), got, cmp.Transformer("list", emptyAsNil)); d != "" {
		t.Errorf("defaults differ from %s (-defaults +file):\n%s", sample, d)
	}
}

func emptyAsNil(list []string) []any {
	var all []any
	for _, s := range list {
		all = append(all, s)
	}
	return all
}

func TestSampleFileHasEveryKey(t *testing.T) {
	b, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	shown, table := map[string]bool{}, ""
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "#"))
		if name, ok := strings.CutPrefix(line, "["); ok {
			table = strings.TrimSuffix(name, "]")
		}
		if key, _, ok := strings.Cut(line, "="); ok {
			shown[table+"."+strings.TrimSpace(key)] = true
		}
	}
	n := 0
	_ = eachKey(reflect.ValueOf(new(node.Config)).Elem(), func(path string, _ reflect.Value) error {
		if n++; !shown[path] {
			t.Errorf("%s does not show %s", sample, path)
		}
		return nil
	})
	if n < 20 {
		t.Errorf("only %d keys were looked at", n)
	}
}

func TestEveryKeyIsAVariable(t *testing.T) {
	_ = eachKey(reflect.ValueOf(new(node.Config)).Elem(), func(path string, v reflect.Value) error {
		text, want := "some text", reflect.ValueOf("some text")
		switch v.Interface().(type) {
		case bool:
			text, want = "true", reflect.ValueOf(true)
		case int, int64:
			text, want = "4711", reflect.ValueOf(4711).Convert(v.Type())
		case []string:
			text, want = " :1, :2,,", reflect.ValueOf([]string{":1", ":2"})
		case node.Duration:
			text, want = "90s", reflect.ValueOf(node.Duration(90*time.Second))
		}
		vars := map[string]string{"COVEY_NODE_DATA": "/data"}
		vars["COVEY_"+strings.ToUpper(strings.ReplaceAll(path, ".", "_"))] = text
		if path == "node.data" {
			text, want = "/other", reflect.ValueOf("/other")
			vars["COVEY_NODE_DATA"] = text
		}
		cfg, err := source{getenv: environment(vars)}.load()
		if err != nil {
			t.Errorf("%s: %v", path, err)
			return nil
		}
		return eachKey(reflect.ValueOf(&cfg).Elem(), func(p string, got reflect.Value) error {
			if p == path && !reflect.DeepEqual(got.Interface(), want.Interface()) {
				t.Errorf("%s: got %v, want %v", path, got, want)
			}
			return nil
		})
	})
}

func TestPrecedence(t *testing.T) {
	file := configFile(t, "[node]\ndata = \"/file\"\nhostname = \"file.example\"\n[limits]\nrecipients = 7\nquota = 7\n[listen]\npop3 = []\n[cluster]\nreplicas = 1\n")
	env := map[string]string{"COVEY_NODE_DATA": "/env", "COVEY_LIMITS_QUOTA": "8", "COVEY_LISTEN_POP3S": "", "COVEY_CLUSTER_JOIN": "c:3"}
	for _, tt := range []struct {
		name string
		s    source
		want func(*node.Config)
	}{
		{"defaults", source{data: "/flag", getenv: environment(nil)}, func(c *node.Config) { *c = node.DefaultConfig("/flag", 0) }},
		{"offset", source{data: "/flag", offset: 10000, getenv: environment(nil)}, func(c *node.Config) { *c = node.DefaultConfig("/flag", 10000) }},
		{"file", source{file: file, getenv: environment(nil)}, func(*node.Config) {}},
		{"environment", source{file: file, getenv: environment(env)}, func(c *node.Config) {
			*c = node.DefaultConfig("/env", 0) // the LMTP socket lies in the data folder
			c.Node.Hostname, c.Limits.Recipients, c.Limits.Quota = "file.example", 7, 8
			c.Listen.POP3, c.Listen.POP3S = []string{}, []string{}
			c.Cluster.Join, c.Cluster.Replicas = []string{"c:3"}, 1
		}},
		{"command line", source{file: file, data: "/flag", flags: (&serveCmd{
			Join: []string{"a:1", "b:2"}, SecretFile: "/secret", Init: true, Replicas: 5,
		}).flags(), getenv: environment(env)}, func(c *node.Config) {
			*c = node.DefaultConfig("/flag", 0)
			c.Cluster.Join, c.Cluster.SecretFile, c.Cluster.Init, c.Cluster.Replicas = []string{"a:1", "b:2"}, "/secret", true, 5
			c.Node.Hostname, c.Limits.Recipients, c.Limits.Quota = "file.example", 7, 8
			c.Listen.POP3, c.Listen.POP3S = []string{}, []string{}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := node.DefaultConfig("/file", 0)
			want.Node.Hostname, want.Limits.Recipients, want.Limits.Quota = "file.example", 7, 7
			want.Listen.POP3, want.Cluster.Replicas = []string{}, 1
			tt.want(&want)
			got, err := tt.s.load()
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
	got, err := source{data: "relative", getenv: environment(nil)}.load()
	if err != nil || !filepath.IsAbs(got.Node.Data) {
		t.Errorf("relative folder: got %q, %v; want an absolute path", got.Node.Data, err)
	}
}

func TestBadConfiguration(t *testing.T) {
	for _, tt := range []struct{ name, file, say string }{
		{"unknown key", "[node]\ndata = \"/d\"\ncolour = \"red\"\n", `line 3: unknown key "node.colour"`},
		{"unknown table", "[node]\n\n[nodes]\nx = 1\n", `line 3: unknown key "nodes"`},
		{"key without table", "data = \"/d\"\n", `line 1: unknown key "data"`},
		{"number for a list", "[listen]\nsmtp = 25\n", "line 2, column 8"},
		{"text for a number", "[limits]\n\nrecipients = \"many\"\n", "line 3, column 14"},
		{"bad duration", "[limits]\ncheckpoint_every = \"soon\"\n", "line 2"},
		{"negative duration", "[limits]\ncheckpoint_every = \"-1s\"\n", "negative"},
		{"not TOML", "[node\n", "line 1"},
		{"twice", "[node]\ndata = \"/a\"\ndata = \"/b\"\n", "data"},
		{"too large", strings.Repeat("#", maxConfig+1), "larger than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			name := configFile(t, tt.file)
			_, err := source{file: name, data: "/data", getenv: environment(nil)}.load()
			if err == nil || !strings.Contains(err.Error(), tt.say) || !strings.Contains(err.Error(), name) {
				t.Errorf("got %v, want an error with the file's name and %q", err, tt.say)
			}
		})
	}
	for name, value := range map[string]string{
		"COVEY_NODE_DEBUG": "perhaps", "COVEY_LIMITS_QUOTA": "2GiB", "COVEY_LIMITS_CHECKPOINT_EVERY": "60",
	} {
		_, err := source{data: "/data", getenv: environment(map[string]string{name: value})}.load()
		if err == nil || !strings.Contains(err.Error(), name+"=\""+value+"\"") {
			t.Errorf("%s=%s: got %v, want an error that names it", name, value, err)
		}
	}
	if _, err := (source{getenv: environment(nil)}).load(); err == nil || !strings.Contains(err.Error(), "--data DIR") {
		t.Errorf("no data folder: got %v", err)
	}
	if _, err := (source{file: "/no/such/file", getenv: environment(nil)}).load(); err == nil || !strings.Contains(err.Error(), "/no/such/file") {
		t.Errorf("no file: got %v", err)
	}
}

// What the environment and a file can say must not end in a panic.
func FuzzConfig(f *testing.F) {
	b, err := os.ReadFile(sample)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("[node]\ndata = 1"))
	f.Add([]byte("[limits]\ncheckpoint_every = \"1h\"\nlmtp_peers = [\"::/0\", 1]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		name := filepath.Join(t.TempDir(), "c")
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _ = source{file: name, data: "/data", getenv: environment(map[string]string{"COVEY_LIMITS_RECIPIENTS": string(b)})}.load()
	})
}
