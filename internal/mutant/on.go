//go:build mutant

package mutant

// planted is set by the linker.
var planted Bug

// Is reports whether a bug is planted in this program.
func Is(b Bug) bool { return b == planted }
