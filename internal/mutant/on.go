//go:build mutant

package mutant

// planted is set by the linker, which sets strings only.
var planted string

// Is reports whether a bug is planted in this program.
func Is(b Bug) bool { return string(b) == planted }
