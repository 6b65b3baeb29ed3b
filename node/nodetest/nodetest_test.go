package nodetest

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Nodes that join one after the other under load lose no delivery, and mail that
// goes in anywhere comes out everywhere.
func TestGrow(t *testing.T) {
	c := New(t, Options{})
	a := c.Node()
	a.Start()
	c.AddUsers()
	load := c.Load(a)
	load.More(3)
	c.Node().Start()
	c.Node().Start()
	c.Settle()
	load.Through(c.Nodes()...)
	load.More(3)
	load.Check()
	load.NoFailures()
	for _, u := range Users() {
		for i, n := range c.Nodes() {
			want := len(load.Ledgers()[u].Acked)
			if got, err := n.Stat(u); got != want || err != nil {
				t.Errorf("%s by POP3 at node %d: %d, %v; want %d", u, i+1, got, err, want)
			}
		}
	}
}
