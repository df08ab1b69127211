package imagefile

import (
	"io/fs"
	"os"
	"syscall"
)

// Info is what the system said of the file when it was opened: its owner, its mode.
func (f *File) Info() fs.FileInfo { return f.info }

// ID tells the file from all others, by whatever name it was opened: the numbers of its
// device and inode; of a block device its own number and 0, since it can have many nodes.
func (f *File) ID() (device, inode uint64) { return idOf(f.info) }

func idOf(info fs.FileInfo) (device, inode uint64) {
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return 0, 0
	case info.Mode().IsRegular():
		return uint64(st.Dev), uint64(st.Ino)
	}
	return uint64(st.Rdev), 0
}

// IsAt tells whether a path still leads to the file. It does not once another file was
// renamed to it.
func (f *File) IsAt(path string) bool {
	info, err := os.Stat(path)
	if err != nil || info.Mode().Type() != f.info.Mode().Type() {
		return false
	}
	device, inode := idOf(info)
	d, i := f.ID()
	return device == d && inode == i
}
