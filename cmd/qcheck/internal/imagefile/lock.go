package imagefile

import "slices"

// LockState tells whether QEMU's image locks protect an open file.
type LockState int

const (
	// LockTaken means that our locks are set and fit with those of others.
	LockTaken LockState = iota
	// LockUnsupported means that the kernel or this file system has no open
	// file description locks: nobody sees us, and we see nobody.
	LockUnsupported
	// LockOff means that this operating system has no such locks.
	LockOff
)

func (s LockState) String() string {
	switch s {
	case LockTaken:
		return "taken"
	case LockUnsupported:
		return "unsupported"
	default:
		return "off"
	}
}

// permission is one of the things that a program may do with an image, numbered
// as QEMU numbers them (BLK_PERM_*, as the index of the bit).
type permission int64

const (
	permRead           permission = 0
	permWrite          permission = 1
	permWriteUnchanged permission = 2
	permResize         permission = 3
)

// useByte is the byte whose lock says "I use this".
func (p permission) useByte() int64 { return 100 + int64(p) }

// denyByte is the byte whose lock says "I do not let others use this".
func (p permission) denyByte() int64 { return 200 + int64(p) }

// The bytes from the first to the last that QEMU's protocol may ever lock.
const (
	firstLockByte = 100
	lastLockByte  = 203
)

// lockPlan is what one user of an image does with it, and what it keeps others
// from doing.
type lockPlan struct {
	uses   []permission
	denies []permission
}

func planFor(opts Options) lockPlan {
	switch {
	case opts.Write:
		return lockPlan{
			uses:   []permission{permRead, permWrite, permResize},
			denies: []permission{permRead, permWrite, permWriteUnchanged, permResize},
		}
	case opts.ForceShare:
		return lockPlan{uses: []permission{permRead}}
	default:
		return lockPlan{
			uses:   []permission{permRead},
			denies: []permission{permWrite, permResize},
		}
	}
}

// sets gives the bytes to lock.
func (p lockPlan) sets() []int64 {
	var b []int64
	for _, perm := range p.uses {
		b = append(b, perm.useByte())
	}
	for _, perm := range p.denies {
		b = append(b, perm.denyByte())
	}
	return b
}

// tests gives the bytes that no other may have locked.
func (p lockPlan) tests() []int64 {
	var b []int64
	for _, perm := range p.uses {
		b = append(b, perm.denyByte())
	}
	for _, perm := range p.denies {
		b = append(b, perm.useByte())
	}
	return b
}

// writerBytes are locked while another program may change the image.
var writerBytes = []int64{permWrite.useByte(), permResize.useByte()}

// judge names what the holders of the locked bytes do and the byte that says so,
// the worst first: who shares with nobody cannot be got round, who writes can be
// with ForceShare.
func judge(locked []int64) (Conflict, int64) {
	for _, sign := range []struct {
		conflict Conflict
		bytes    []int64
	}{
		{ConflictExclusive, []int64{permRead.denyByte()}},
		{ConflictWriter, []int64{permWrite.useByte(), permResize.useByte(), permWriteUnchanged.useByte()}},
	} {
		for _, b := range sign.bytes {
			if slices.Contains(locked, b) {
				return sign.conflict, b
			}
		}
	}
	return ConflictReader, locked[0]
}
