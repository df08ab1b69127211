package imagefile

import (
	"io/fs"
	"os"
)

// Info is what the system said of the file when it was opened: its owner, its mode.
func (f *File) Info() fs.FileInfo { return f.info }

// ID tells the file from all others, by whatever name it was opened: the numbers of its
// device and inode; of a block device its own number and 0, since it can have many nodes.
func (f *File) ID() (device, inode uint64) { return idOf(f.info) }

// IsAt tells whether a path still leads to the file. It does not once another file was
// renamed to it.
func (f *File) IsAt(path string) bool {
	info, err := os.Stat(path)
	if err != nil || info.Mode().Type() != f.info.Mode().Type() {
		return false
	}
	device, inode := idOf(info)
	d, i := f.ID()
	if device == 0 && inode == 0 && d == 0 && i == 0 {
		return os.SameFile(info, f.info) // where there are no numbers to be had
	}
	return device == d && inode == i
}
