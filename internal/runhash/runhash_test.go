package runhash

import "testing"

func TestHistory(t *testing.T) {
	var h History
	want := map[uint64]uint64{0: 0}
	check := func(index uint64, known bool) {
		t.Helper()
		got, ok := h.At(index)
		if ok != known || ok && got != want[index] {
			t.Errorf("hash at %d is %x, %v; want %x, %v", index, got, ok, want[index], known)
		}
	}
	check(0, false)
	h.Add(0, 0)
	check(0, true)
	check(1, false)
	index, last := uint64(0), uint64(0)
	for n := range uint64(70 * markEvery) {
		next := index + 1 + n%5/4*2 // now and then two indexes are not commands
		for ; index < next; index++ {
			want[index] = last
		}
		last = index * 7
		h.Add(index, last)
		want[index] = last
	}
	check(index, true)
	check(index+1, false) // not yet: it may bring a command
	for i := index - 1000; i < index; i++ {
		check(i, true)
	}
	check(index-kept*2-7, false)
	newest := (index - 1) / markEvery * markEvery
	for i := range uint64(marksKept) {
		check(newest-i*markEvery, true)
	}
	check(newest-marksKept*markEvery, false)
	check(newest-3*markEvery+1, false)
}

// A state that has just been opened knows where it stands.
func TestOpened(t *testing.T) {
	var h History
	h.Add(5000, 1)
	h.Add(5003, 2)
	for i, known := range map[uint64]bool{4999: false, 5000: true, 5002: true, 4096: false, 5004: false} {
		if got, ok := h.At(i); ok != known || ok && got != 1 {
			t.Errorf("hash at %d is %x, %v", i, got, ok)
		}
	}
}
