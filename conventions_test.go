package covey_test

import (
	"bufio"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Limits on the size of things; docs/style.md gives the aims below them.
const (
	maxFileLines = 700
	maxFuncLines = 120
	maxParams    = 5
)

// TestConventions checks what a reader should not have to.
func TestConventions(t *testing.T) {
	docs := make(map[string]int)
	eachGoFile(t, func(path string) {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if n := fset.Position(file.End()).Line; n > maxFileLines {
			t.Errorf("%s has %d lines, at most %d", path, n, maxFileLines)
		}
		test := strings.HasSuffix(path, "_test.go")
		if !test {
			dir := filepath.Dir(path)
			docs[dir] += 0
			if file.Doc != nil {
				docs[dir]++
			}
		}
		checkFuncs(t, fset, file, path, test)
		checkCalls(t, fset, file, path, test)
	})
	for dir, n := range docs {
		if n != 1 {
			t.Errorf("package %s has %d package comments, want one", dir, n)
		}
	}
}

func checkFuncs(t *testing.T, fset *token.FileSet, file *ast.File, path string, test bool) {
	t.Helper()
	for _, d := range file.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		if n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1; n > maxFuncLines {
			t.Errorf("%s: %s has %d lines, at most %d", path, fn.Name.Name, n, maxFuncLines)
		}
		if test {
			continue
		}
		if n := fn.Type.Params.NumFields(); n > maxParams {
			t.Errorf("%s: %s has %d parameters, at most %d", path, fn.Name.Name, n, maxParams)
		}
		if fn.Name.IsExported() && fn.Doc == nil && exportedReceiver(fn) {
			t.Errorf("%s: %s has no comment", path, fn.Name.Name)
		}
		if fn.Name.IsExported() && exportedReceiver(fn) && hasBool(fn.Type.Params) && !boolIsTheValue[fn.Name.Name] {
			t.Errorf("%s: %s takes a bool: a reader of the call cannot tell what it says", path, fn.Name.Name)
		}
	}
}

// boolIsTheValue are functions whose bool is what is written, not how.
var boolIsTheValue = map[string]bool{"AppendBool": true}

func exportedReceiver(fn *ast.FuncDecl) bool {
	if fn.Recv == nil {
		return true
	}
	typ := fn.Recv.List[0].Type
	if s, ok := typ.(*ast.StarExpr); ok {
		typ = s.X
	}
	if ix, ok := typ.(*ast.IndexExpr); ok {
		typ = ix.X
	}
	id, ok := typ.(*ast.Ident)
	return ok && id.IsExported()
}

func hasBool(params *ast.FieldList) bool {
	for _, p := range params.List {
		if id, ok := p.Type.(*ast.Ident); ok && id.Name == "bool" {
			return true
		}
	}
	return false
}

// checkCalls refuses calls that belong to cmd/ only, and sleeps in tests.
func checkCalls(t *testing.T, fset *token.FileSet, file *ast.File, path string, test bool) {
	t.Helper()
	inCmd := strings.HasPrefix(path, "cmd/") || strings.HasPrefix(path, "test/")
	ast.Inspect(file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		pkg, ok := sel.X.(*ast.Ident)
		if !ok || pkg.Obj != nil {
			return true
		}
		name := pkg.Name + "." + sel.Sel.Name
		switch {
		case name == "time.Sleep" && test:
			t.Errorf("%s: time.Sleep in a test: wait for what happens", fset.Position(n.Pos()))
		case inCmd || test:
		case name == "os.Exit", name == "os.Getenv", name == "os.LookupEnv", strings.HasPrefix(name, "log.Fatal"),
			name == "signal.Notify", name == "signal.NotifyContext", strings.HasPrefix(name, "flag."):
			t.Errorf("%s: %s belongs to cmd/", fset.Position(n.Pos()), name)
		}
		return true
	})
}

// TestDocsNameFilesThatExist follows every path that the documents mention in
// backquotes.
func TestDocsNameFilesThatExist(t *testing.T) {
	docs, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("*/DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range append(append(docs, more...), "README.md") {
		f, err := os.Open(doc)
		if err != nil {
			t.Errorf("%s: %v", doc, err)
			continue
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		for n := 1; lines.Scan(); n++ {
			for i, word := range strings.Split(lines.Text(), "`") {
				if i%2 == 1 && looksLikePath(word) {
					if _, err := os.Stat(word); err != nil {
						t.Errorf("%s:%d: %s is not there", doc, n, word)
					}
				}
			}
		}
	}
}

// looksLikePath tells a path of this repository from other code: it ends in a
// file ending that we use and holds nothing that a path would not.
func looksLikePath(s string) bool {
	if strings.ContainsAny(s, " *{}<>…$=") || strings.HasPrefix(s, "/") || strings.HasPrefix(s, "DIR/") || !strings.Contains(s, "/") {
		return false
	}
	switch filepath.Ext(s) {
	case ".go", ".md", ".toml", ".sh", ".py":
		return true
	}
	return false
}
