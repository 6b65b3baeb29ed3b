package directory_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/directory/directorytest"
)

// address parses an address, or the two forms that only look-ups meet: a bare
// word, and @domain.
func address(t *testing.T, s string) covey.Address {
	t.Helper()
	if s == "postmaster" || s == "Postmaster" {
		return covey.Address{Local: s}
	}
	a, err := covey.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func names(list []directory.Account) []string {
	var out []string
	for _, a := range list {
		out = append(out, a.Address.String())
	}
	return out
}

func TestResolve(t *testing.T) {
	s := directorytest.New(t)
	for _, a := range []string{"alice@example.org", "bob@example.org", "a+b@example.org", "zoe@second.example", "ann@second.example"} {
		directorytest.Add(t, s, a, "")
	}
	directorytest.Alias(t, s, "sales@example.org", "alice@example.org", "bob+shop@example.org", "alice@example.org")
	directorytest.Alias(t, s, "all@example.org", "sales@example.org", "zoe@second.example")
	directorytest.Alias(t, s, "@second.example", "ann@second.example")
	directorytest.Alias(t, s, "loop@example.org", "alice@example.org")
	directorytest.Alias(t, s, "loop2@example.org", "loop@example.org", "bob@example.org")
	if err := s.SetAlias(t.Context(), address(t, "loop@example.org"), address(t, "loop2@example.org")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		to   string
		want []string
		kind error
	}{
		{to: "alice@example.org", want: []string{"alice@example.org"}},
		{to: "ALICE@Example.ORG", want: []string{"alice@example.org"}},
		{to: "alice+news@example.org", want: []string{"alice@example.org"}},
		{to: "a+b@example.org", want: []string{"a+b@example.org"}},
		{to: "a@example.org", kind: covey.NotFound},
		{to: "+alice@example.org", kind: covey.NotFound},
		{to: "sales@example.org", want: []string{"alice@example.org", "bob@example.org"}},
		{to: "sales+x@example.org", want: []string{"alice@example.org", "bob@example.org"}},
		{to: "all@example.org", want: []string{"alice@example.org", "bob@example.org", "zoe@second.example"}},
		{to: "loop@example.org", want: []string{"bob@example.org"}},
		{to: "nobody@example.org", kind: covey.NotFound},
		{to: "nobody@second.example", want: []string{"ann@second.example"}},
		{to: "alice@elsewhere.example", kind: covey.Denied},
		{to: "postmaster@example.org", want: []string{"alice@example.org"}},
		{to: "PostMaster@second.example", want: []string{"zoe@second.example"}},
		{to: "postmaster", want: []string{"alice@example.org"}},
	} {
		t.Run(tt.to, func(t *testing.T) {
			got, err := s.Resolve(t.Context(), address(t, tt.to))
			if tt.kind != nil {
				if !errors.Is(err, tt.kind) {
					t.Fatalf("Resolve = %v, %v; want %v", names(got), err, tt.kind)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, names(got)); diff != "" {
				t.Errorf("accounts (-want +got):\n%s", diff)
			}
		})
	}
}
