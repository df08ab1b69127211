package undofile

import (
	"errors"

	"golang.org/x/sys/unix"
)

// rename gives a file another name, and never takes one from another file.
func rename(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		return renameIfFree(from, to) // not every file system knows how
	}
	return err
}
