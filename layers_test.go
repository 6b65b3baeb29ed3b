package covey_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/covey-mail/covey"

// layers gives every package its height; a package may import only what lies
// lower. Packages of one height are independent of each other, but for the pairs
// in sideways. A folder below another has its height unless it is named itself.
var layers = map[string]int{
	".":                0,
	"internal":         1,
	"storage/seglog":   2,
	"storage":          3,
	"membership":       3,
	"internal/peer":    1,
	"placement":        3,
	"replica":          3,
	"directory":        4,
	"mailbox":          4,
	"logon":            5,
	"delivery":         5,
	"outbound":         5,
	"smtpd":            6,
	"imapd":            6,
	"pop3d":            6,
	"webmail":          6,
	"bench":            6,
	"node/admin":       7,
	"node/route":       7,
	"node/reconcile":   7,
	"node/quota":       7,
	"node/compare":     7,
	"node":             8,
	"cmd":              9,
	"test":             10,
	"internal/wire":    1,
	"internal/durable": 1,
}

// forbidden are edges that the heights allow and the design does not.
var forbidden = map[[2]string]string{
	{"replica", "storage"}:    "replica knows no mail: state machines come to it as an interface",
	{"storage", "replica"}:    "storage orders nothing: commands come to it in the log's order",
	{"membership", "storage"}: "gossip knows nodes, not users",
	{"directory", "replica"}:  "the directory proposes through an interface, so that tests need no Raft",
	{"mailbox", "replica"}:    "mailbox operations reach shards through mailbox.Shards",
	{"directory", "storage"}:  "the directory is a state of its own, beside the mailbox shards",
	{"smtpd", "storage"}:      "front ends reach shards through services",
	{"smtpd", "replica"}:      "front ends reach shards through services",
	{"imapd", "replica"}:      "front ends reach shards through services",
	{"pop3d", "replica"}:      "front ends reach shards through services",
}

func layerOf(pkg string) (string, int, bool) {
	for p := pkg; ; p = filepath.Dir(p) {
		if h, ok := layers[p]; ok && (p != "." || pkg == ".") {
			return p, h, true
		}
		if p == "." || p == "/" {
			return "", 0, false
		}
	}
}

func TestImportsGoOneWay(t *testing.T) {
	eachGoFile(t, func(path string) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		from, height, ok := layerOf(filepath.Dir(path))
		if !ok {
			t.Errorf("%s: its package has no layer: give it one in layers_test.go", path)
			return
		}
		for _, imp := range file.Imports {
			name, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			checkEdge(t, path, from, height, name)
		}
	})
}

func checkEdge(t *testing.T, path, from string, height int, name string) {
	t.Helper()
	rest, ours := strings.CutPrefix(name, module)
	if !ours {
		if from == "." && strings.Contains(strings.Split(name, "/")[0], ".") {
			t.Errorf("%s imports %s: the vocabulary imports the standard library only", path, name)
		}
		return
	}
	to, h, ok := layerOf(strings.TrimPrefix(rest, "/"))
	if rest == "" {
		to, h, ok = ".", 0, true
	}
	if !ok || from == to {
		return
	}
	if reason, no := forbidden[[2]string{from, to}]; no {
		t.Errorf("%s imports %s: %s", path, name, reason)
	}
	if from == "internal" && to != "." || strings.HasPrefix(from, "internal/") && h > 1 {
		if h > 1 {
			t.Errorf("%s imports %s: internal packages know only the vocabulary and each other", path, name)
		}
		return
	}
	if h > height || h == height && !strings.HasPrefix(to, "internal") && height > 1 {
		t.Errorf("%s (layer %d) imports %s (layer %d): imports go down only", path, height, name, h)
	}
}

// eachGoFile calls fn for every Go file of the module, by its path from the root.
func eachGoFile(t *testing.T, fn func(path string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if !d.IsDir() && strings.HasSuffix(path, ".go") {
			fn(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
