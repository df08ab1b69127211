//go:build !linux

package undofile

// rename gives a file another name, and never takes one from another file.
func rename(from, to string) error { return renameIfFree(from, to) }
