// Package recent is a map that forgets: it holds at most a given number of
// entries and drops those that were not used lately.
//
// Entries live in two generations. What is used goes to the young one; when that
// is half the limit, it becomes the old one and the old one is dropped. An entry
// used within the last limit/2 different uses is therefore always there, and no
// operation walks the map.
package recent

// A Map is a bounded map. It is not safe for concurrent use.
type Map[K comparable, V any] struct {
	half       int
	young, old map[K]V // no key is in both
}

// New returns an empty Map of at most limit entries, which must be at least 2.
func New[K comparable, V any](limit int) *Map[K, V] {
	return &Map[K, V]{half: limit / 2, young: make(map[K]V), old: make(map[K]V)}
}

// Load returns the value under k, and counts as a use.
func (m *Map[K, V]) Load(k K) (V, bool) {
	if v, ok := m.young[k]; ok {
		return v, true
	}
	v, ok := m.old[k]
	if ok {
		m.Store(k, v)
	}
	return v, ok
}

// Store puts v under k, and counts as a use.
func (m *Map[K, V]) Store(k K, v V) {
	delete(m.old, k)
	if _, ok := m.young[k]; !ok && len(m.young) >= m.half {
		m.old, m.young = m.young, make(map[K]V)
	}
	m.young[k] = v
}

// Delete drops k.
func (m *Map[K, V]) Delete(k K) {
	delete(m.young, k)
	delete(m.old, k)
}

// Len returns how many entries there are.
func (m *Map[K, V]) Len() int { return len(m.young) + len(m.old) }

// Clear drops everything.
func (m *Map[K, V]) Clear() {
	clear(m.young)
	clear(m.old)
}
