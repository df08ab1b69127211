package imagefile

import (
	"errors"
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

// locks sets and tests open file description locks on the bytes of one open
// file.
type locks struct {
	conn syscall.RawConn
	// fcntl is unix.FcntlFlock but in tests, which play file systems without
	// locks.
	fcntl func(fd uintptr, cmd int, lk *unix.Flock_t) error
}

func newLocks(conn syscall.RawConn) locks {
	return locks{conn: conn, fcntl: unix.FcntlFlock}
}

// do runs one locking command over length bytes from start on and gives the
// kernel's answer.
func (l locks) do(cmd int, typ int16, start, length int64) (unix.Flock_t, error) {
	lk := unix.Flock_t{}
	var err error
	ctlErr := l.conn.Control(func(fd uintptr) {
		for {
			// The pid must be 0 for these locks.
			lk = unix.Flock_t{Type: typ, Whence: io.SeekStart, Start: start, Len: length}
			if err = l.fcntl(fd, cmd, &lk); err != unix.EINTR {
				return
			}
		}
	})
	return lk, errors.Join(ctlErr, err)
}

// take sets the locks of a plan and then tests for those that contradict it. The
// error is a [*LockedError] when there are any, and no lock is left then; or the
// operating system's.
func (l locks) take(plan lockPlan) (LockState, error) {
	state, at, err := l.try(plan)
	le, refused := errors.AsType[*LockedError](err)
	var inode string
	if refused {
		inode = l.inode()
	}
	if err != nil || state != LockTaken {
		l.drop()
	}
	// Looked for only now: it takes a while, and nobody else should be refused
	// for locks that are not going to be used.
	if refused {
		le.Holder = l.holder(inode, at)
	}
	return state, err
}

// try is take without the clearing up; at is the byte that a [*LockedError] is
// about.
func (l locks) try(plan lockPlan) (state LockState, at int64, err error) {
	for _, b := range plan.sets() {
		_, err := l.do(unix.F_OFD_SETLK, unix.F_RDLCK, b, 1)
		switch {
		case err == nil:
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
			// A shared lock is refused by an exclusive one alone, and QEMU
			// takes none.
			return LockTaken, b, &LockedError{Conflict: ConflictForeign}
		case unsupported(err):
			return LockUnsupported, 0, nil
		default:
			return LockTaken, 0, err
		}
	}
	var locked []int64
	for _, b := range plan.tests() {
		lk, err := l.do(unix.F_OFD_GETLK, unix.F_WRLCK, b, 1)
		switch {
		case err == nil && lk.Type != unix.F_UNLCK:
			locked = append(locked, b)
		case err == nil:
		case unsupported(err):
			return LockUnsupported, 0, nil
		default:
			return LockTaken, 0, err
		}
	}
	if len(locked) == 0 {
		return LockTaken, 0, nil
	}
	conflict, b := judge(locked)
	return LockTaken, b, &LockedError{Conflict: conflict}
}

// anyLocked tells whether another holds a lock on one of the bytes.
func (l locks) anyLocked(bytes []int64) bool {
	for _, b := range bytes {
		lk, err := l.do(unix.F_OFD_GETLK, unix.F_WRLCK, b, 1)
		if err == nil && lk.Type != unix.F_UNLCK {
			return true
		}
	}
	return false
}

// drop gives all locks back. It may fail only where there were none.
func (l locks) drop() {
	_, _ = l.do(unix.F_OFD_SETLK, unix.F_UNLCK, firstLockByte, lastLockByte-firstLockByte+1)
}

// unsupported tells an error of a kernel (EINVAL, before Linux 3.15) or of a file
// system that has no such locks from others.
func unsupported(err error) bool {
	for _, e := range []error{unix.EINVAL, unix.ENOLCK, unix.ENOTSUP, unix.ENOSYS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
