//go:build unix

package imagefile

import (
	"io/fs"
	"syscall"
)

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
