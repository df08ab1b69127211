//go:build !linux

package imagefile

// noAtime is not to be had here.
const noAtime = 0

// Holes are not looked for: not every system has a way, and some that have one
// mean something else by it.
const (
	seekDataKnown = false
	seekData      = 0
	seekHole      = 0
)
