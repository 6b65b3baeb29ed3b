//go:build !mutant_nofsync

package seglog

// syncFile puts a segment's records on stable storage.
func syncFile(s *segment) error { return s.file.Sync() }
