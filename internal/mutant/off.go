//go:build !mutant

package mutant

// Is reports whether a bug is planted in this program: none is.
func Is(Bug) bool { return false }
