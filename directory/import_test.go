package directory_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/directory/directorytest"
)

func importText(t *testing.T, s *directory.Service, text string) directory.Imported {
	t.Helper()
	done, err := s.Import(t.Context(), strings.NewReader(text), directory.DefaultQuota, nil)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func TestImport(t *testing.T) {
	s := directorytest.New(t)
	directorytest.Add(t, s, "old@example.org", cheap)
	const file = "\ufeff# accounts of the old server\r\n" +
		"\n" +
		"alice@example.org " + cheap + "\r\n" +
		"Bob@Example.org:" + cheap + "\n" +
		"old@example.org\t{PLAIN}new password\n" +
		"clear@example.org a pass: word\n" +
		"brace@example.org {PLAIN}{SSHA}really\n" +
		"nowhere@elsewhere.example " + cheap + "\n" +
		"nobody@example.org\n" +
		"not an address\n" +
		"md5@example.org {MD5}$1$x\n" +
		"\"odd name\"@example.org " + cheap
	got := importText(t, s, file+"\n"+"long@example.org "+strings.Repeat("x", 5000)+"\nlast@example.org "+cheap)
	wantErrors := map[int]error{8: covey.NotFound, 9: covey.Invalid, 10: covey.Invalid, 11: covey.Invalid, 13: covey.TooBig}
	for _, e := range got.Errors {
		if !errors.Is(e.Err, wantErrors[e.Line]) {
			t.Errorf("line %d: %v, want %v", e.Line, e.Err, wantErrors[e.Line])
		}
	}
	got.Errors = nil
	want := directory.Imported{Lines: 14, Added: 6, Updated: 1, Failed: len(wantErrors)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("imported (-want +got):\n%s", diff)
	}
	for addr, pass := range map[string]string{
		"alice@example.org": "secret", "bob@example.org": "secret", "old@example.org": "new password",
		"clear@example.org": "a pass: word", "brace@example.org": "{SSHA}really", `"odd name"@example.org`: "secret",
	} {
		c, err := s.Credentials(t.Context(), address(t, addr))
		if err != nil {
			t.Errorf("%s: %v", addr, err)
			continue
		}
		if ok, err := s.Hasher().Verify(t.Context(), c.Hash, pass); !ok || err != nil {
			t.Errorf("%s: password %q does not verify: %v", addr, pass, err)
		}
	}
	again := importText(t, s, file)
	if again.Unchanged != 6 || again.Added+again.Updated != 0 {
		t.Errorf("the second time: %+v, want 6 unchanged and nothing else", again)
	}
}

func TestImportManyHashed(t *testing.T) {
	const n = importLines
	s := directorytest.New(t)
	directorytest.Add(t, s, "first@example.org", "")
	var file bytes.Buffer
	for i := range n {
		fmt.Fprintf(&file, "user%d@example.org %s\n", i, cheap)
	}
	reports, start := 0, time.Now()
	done, err := s.Import(t.Context(), &file, 0, func(im directory.Imported) {
		if reports++; im.Added > n {
			t.Errorf("progress %+v", im)
		}
	})
	if err != nil || done.Added != n || done.Failed != 0 {
		t.Fatalf("Import = %+v, %v", done, err)
	}
	t.Logf("%d lines in %v", n, time.Since(start))
	if reports < n/500 {
		t.Errorf("progress was reported %d times", reports)
	}
	if d := s.Domains()[0]; d.Accounts != n+1 {
		t.Errorf("domain %+v", d)
	}
}

// An import that stops says where, and goes on when it is tried again.
func TestImportStopsAndGoesOn(t *testing.T) {
	s, p := directorytest.Open(t)
	directorytest.Add(t, s, "first@example.org", "")
	var file strings.Builder
	for i := range 1200 {
		fmt.Fprintf(&file, "user%d@example.org:%s\n", i, cheap)
	}
	down := covey.Errorf(covey.Unavailable, "no quorum")
	done, err := s.Import(t.Context(), strings.NewReader(file.String()), 0, func(im directory.Imported) {
		if im.Lines >= 1000 {
			p.Fail(down)
		}
	})
	if !errors.Is(err, covey.Unavailable) || done.Added != 1000 {
		t.Errorf("Import = %+v, %v; want 1,000 added, then unavailable", done, err)
	}
	p.Fail(nil)
	if done := importText(t, s, file.String()); done.Unchanged != 1000 || done.Added != 200 {
		t.Errorf("the second time: %+v", done)
	}
	broken := io.MultiReader(strings.NewReader("x@example.org:"+cheap+"\n"), failing{})
	if done, err := s.Import(t.Context(), broken, 0, nil); err == nil || done.Added != 1 {
		t.Errorf("a file that cannot be read on: %+v, %v", done, err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("disk on fire") }

func FuzzImport(f *testing.F) {
	f.Add("alice@example.org " + cheap + "\nbob@example.org:x y\n#\n\n")
	f.Add("\"a b\"@example.org {SSHA}x\n\"")
	f.Add("{}@example.org {")
	f.Add("\ufeff:\n: \n")
	s := directorytest.New(f)
	f.Fuzz(func(t *testing.T, text string) {
		done, err := s.Import(t.Context(), strings.NewReader(text), 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		if most := strings.Count(text, "\n") + 1; done.Lines > most || done.Failed+done.Added+done.Updated+done.Unchanged > done.Lines {
			t.Errorf("%q: %+v", text, done)
		}
	})
}
