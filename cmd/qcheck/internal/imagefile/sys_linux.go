package imagefile

import "golang.org/x/sys/unix"

// noAtime asks that reading does not count as an access.
const noAtime = unix.O_NOATIME

// How to find the holes of a file.
const (
	seekDataKnown = true
	seekData      = unix.SEEK_DATA
	seekHole      = unix.SEEK_HOLE
)
