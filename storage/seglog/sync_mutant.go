//go:build mutant_nofsync

package seglog

// syncFile does nothing. The build tag makes a program that acknowledges what is
// not on stable storage, so that the power-cut test can show that it notices.
func syncFile(*segment) error { return nil }
