package imagefile

import (
	"os"

	"golang.org/x/sys/unix"
)

// CloneTo makes an empty file share all blocks with this one, where the file system can.
func (f *File) CloneTo(dst *os.File) error {
	return unix.IoctlFileClone(int(dst.Fd()), int(f.f.Fd()))
}
