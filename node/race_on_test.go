//go:build race

package node

// raceEnabled: the race detector has sync.Pool drop at random what it is given,
// so that counts of allocations say nothing.
const raceEnabled = true
