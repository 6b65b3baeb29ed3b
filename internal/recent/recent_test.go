package recent

import "testing"

func TestForgetsOnlyTheUnused(t *testing.T) {
	const limit = 10
	m := New[int, string](limit)
	m.Store(-1, "kept by use")
	for i := range 1000 {
		m.Store(i, "passing")
		if v, ok := m.Load(-1); !ok || v != "kept by use" {
			t.Fatalf("after %d: entry in use is %q, %v", i, v, ok)
		}
		if m.Len() > limit {
			t.Fatalf("after %d: %d entries, limit %d", i, m.Len(), limit)
		}
	}
	if _, ok := m.Load(0); ok {
		t.Error("an entry of long ago is still there")
	}
	if _, ok := m.Load(999); !ok {
		t.Error("the newest entry is gone")
	}
}

func TestStoreReplacesInEitherGeneration(t *testing.T) {
	m := New[string, int](4)
	for i, k := range []string{"a", "b", "c", "a", "d", "b"} { // a and b are old when stored again
		m.Store(k, i)
		if got, ok := m.Load(k); !ok || got != i {
			t.Errorf("Load(%q) = %d, %v; want %d", k, got, ok, i)
		}
	}
	m.Delete("b")
	if _, ok := m.Load("b"); ok {
		t.Error("deleted entry is there")
	}
	m.Clear()
	if m.Len() != 0 {
		t.Errorf("Len after Clear = %d", m.Len())
	}
}
