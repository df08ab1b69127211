package imagefile

import (
	"errors"
	"math"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A busy machine must not make the search for a holder fail here.
func init() { holderPatience = time.Minute }

// other is another program with the file open: its own open file description,
// whose locks are set byte by byte.
type other struct {
	t testing.TB
	f *os.File
}

func newOther(t testing.TB, path string) other {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return other{t, f}
}

func (o other) fcntl(cmd int, typ int16, start, length int64) unix.Flock_t {
	o.t.Helper()
	lk := unix.Flock_t{Type: typ, Start: start, Len: length}
	require.NoError(o.t, unix.FcntlFlock(o.f.Fd(), cmd, &lk))
	return lk
}

func (o other) hold(bytes ...int64) {
	o.t.Helper()
	for _, b := range bytes {
		o.fcntl(unix.F_OFD_SETLK, unix.F_RDLCK, b, 1)
	}
}

func (o other) release() {
	o.t.Helper()
	o.fcntl(unix.F_OFD_SETLK, unix.F_UNLCK, 0, 0)
}

// seen gives the bytes that others hold, of all that could matter.
func (o other) seen() []int64 {
	o.t.Helper()
	var held []int64
	for b := range int64(300) {
		if lk := o.fcntl(unix.F_OFD_GETLK, unix.F_WRLCK, b, 1); lk.Type != unix.F_UNLCK {
			assert.EqualValues(o.t, unix.F_RDLCK, lk.Type)
			held = append(held, b)
		}
	}
	return held
}

var (
	checking  = Options{}
	sharing   = Options{ForceShare: true}
	repairing = Options{Write: true}
)

// What QEMU was seen to hold (block/file-posix.c, raw_handle_perm_lock).
var (
	qemuWriter     = []int64{100, 101, 103, 201, 203}
	qemuReader     = []int64{100, 201, 203}
	qemuForced     = []int64{100}
	qemuInfo       = []int64{201, 203}
	qemuDataWriter = []int64{100, 101, 103, 203}
	qemuDataReader = []int64{100, 203}
	qemuRawWriter  = []int64{100, 101}
	qemuAlone      = []int64{100, 101, 103, 200, 201, 202, 203}
)

func TestTheBytesThatAreLocked(t *testing.T) {
	for _, tc := range []struct {
		name string
		opts Options
		want []int64
	}{
		{"check", checking, []int64{100, 201, 203}},
		{"check of a data file", Options{Kind: DataFile}, []int64{100, 201, 203}},
		{"check of a backing file", Options{Kind: BackingFile}, []int64{100, 201, 203}},
		{"forced", sharing, []int64{100}},
		{"forced, data file", Options{Kind: DataFile, ForceShare: true}, []int64{100}},
		{"repair", repairing, []int64{100, 101, 103, 200, 201, 202, 203}},
		{"repair of a data file", Options{Kind: DataFile, Write: true}, []int64{100, 101, 103, 200, 201, 202, 203}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := newFileOf(t, []byte("short"))
			o := newOther(t, path)
			f := mustOpen(t, path, tc.opts)
			assert.Equal(t, LockTaken, f.LockState())
			assert.Equal(t, tc.want, o.seen())
			require.NoError(t, f.Close())
			assert.Empty(t, o.seen())
		})
	}
}

func TestWhoGoesAlongWithWhom(t *testing.T) {
	for _, tc := range []struct {
		name   string
		held   []int64
		opts   Options
		fits   bool
		reason Conflict // where it does not fit
	}{
		{"nobody", nil, checking, true, 0},
		{"a writer", qemuWriter, checking, false, ConflictWriter},
		{"a reader", qemuReader, checking, true, 0},
		{"a forced reader", qemuForced, checking, true, 0},
		{"qemu-img info", qemuInfo, checking, true, 0},
		{"a data file's writer", qemuDataWriter, checking, false, ConflictWriter},
		{"a data file's reader", qemuDataReader, checking, true, 0},
		{"a raw writer", qemuRawWriter, checking, false, ConflictWriter},
		{"only a resizer", []int64{103}, checking, false, ConflictWriter},
		{"only a rewriter", []int64{102}, checking, true, 0},
		{"one that is alone", qemuAlone, checking, false, ConflictExclusive},
		{"libvirt's byte", []int64{0}, checking, true, 0},

		{"nobody", nil, sharing, true, 0},
		{"a writer", qemuWriter, sharing, true, 0},
		{"a reader", qemuReader, sharing, true, 0},
		{"one that is alone", qemuAlone, sharing, false, ConflictExclusive},

		{"nobody", nil, repairing, true, 0},
		{"a writer", qemuWriter, repairing, false, ConflictWriter},
		{"a reader", qemuReader, repairing, false, ConflictReader},
		{"a forced reader", qemuForced, repairing, false, ConflictReader},
		{"qemu-img info", qemuInfo, repairing, false, ConflictReader},
		{"a data file's writer", qemuDataWriter, repairing, false, ConflictWriter},
		{"only a rewriter", []int64{102}, repairing, false, ConflictWriter},
		{"one that is alone", qemuAlone, repairing, false, ConflictExclusive},
		{"libvirt's byte", []int64{0}, repairing, true, 0},
	} {
		for _, kind := range []Kind{Image, DataFile, BackingFile} {
			opts := tc.opts
			opts.Kind = kind
			if opts.Write && kind == BackingFile {
				continue
			}
			path := newFileOf(t, []byte("x"))
			o := newOther(t, path)
			o.hold(tc.held...)
			f, err := Open(path, opts)
			if tc.fits {
				if assert.NoError(t, err, "%+v beside %s", opts, tc.name) {
					assert.NoError(t, f.Close())
				}
				continue
			}
			locked, ok := errors.AsType[*LockedError](err)
			require.True(t, ok, "%+v beside %s: %v", opts, tc.name, err)
			assert.Equal(t, tc.reason, locked.Conflict, "%+v beside %s", opts, tc.name)
			assert.Equal(t, kind, locked.Kind)
			assert.Equal(t, opts.Write, locked.Write)
			require.NotNil(t, locked.Holder)
			assert.Equal(t, os.Getpid(), locked.Holder.PID)
			assert.Empty(t, newOther(t, path).seenBeside(tc.held), "a refused open leaves no lock")
		}
	}
}

// seenBeside is seen without the bytes known to be held.
func (o other) seenBeside(known []int64) []int64 {
	o.t.Helper()
	return slices.DeleteFunc(o.seen(), func(b int64) bool { return slices.Contains(known, b) })
}

func TestTwoOfOurOwn(t *testing.T) {
	for _, tc := range []struct {
		name          string
		first, second Options
		fits          bool
	}{
		{"check, check", checking, checking, true},
		{"check, forced", checking, sharing, true},
		{"forced, check", sharing, checking, true},
		{"check, repair", checking, repairing, false},
		{"forced, repair", sharing, repairing, false},
		{"repair, check", repairing, checking, false},
		{"repair, forced", repairing, sharing, false},
		{"repair, repair", repairing, repairing, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := newFileOf(t, []byte("x"))
			first := mustOpen(t, path, tc.first)
			second, err := Open(path, tc.second)
			if tc.fits {
				require.NoError(t, err)
				require.NoError(t, second.Close())
				return
			}
			_, ok := errors.AsType[*LockedError](err)
			require.True(t, ok, "%v", err)
			require.NoError(t, first.Close())
			assert.NoError(t, mustOpen(t, path, tc.second).Close())
		})
	}
}

func TestAForeignLockIsToldApart(t *testing.T) {
	path := newFileOf(t, []byte("x"))
	o := newOther(t, path)
	o.fcntl(unix.F_OFD_SETLK, unix.F_WRLCK, 0, 0)
	for _, opts := range []Options{checking, sharing, repairing} {
		_, err := Open(path, opts)
		locked, ok := errors.AsType[*LockedError](err)
		require.True(t, ok, "%v", err)
		assert.Equal(t, ConflictForeign, locked.Conflict)
	}
	o.release()

	// The lock of a process, which the kernel names.
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	require.NoError(t, unix.FcntlFlock(o.f.Fd(), unix.F_SETLK, &lk))
	_, err := Open(path, checking)
	locked, ok := errors.AsType[*LockedError](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, ConflictForeign, locked.Conflict)
	require.NotNil(t, locked.Holder)
	assert.Equal(t, os.Getpid(), locked.Holder.PID)
}

// While a holder is looked for, our own locks must not keep others out.
func TestARefusedOpenIsNotInAnybodysWay(t *testing.T) {
	path := newFileOf(t, []byte("x"))
	o := newOther(t, path)
	o.hold(qemuWriter...)
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	conn, err := file.SyscallConn()
	require.NoError(t, err)
	l := newLocks(conn)
	dropped := false
	l.fcntl = func(fd uintptr, cmd int, lk *unix.Flock_t) error {
		switch {
		case lk.Type == unix.F_UNLCK:
			dropped = true
		case dropped:
			assert.Empty(t, o.seen())
		}
		return unix.FcntlFlock(fd, cmd, lk)
	}
	_, err = l.take(planFor(checking))
	locked, ok := errors.AsType[*LockedError](err)
	require.True(t, ok, "%v", err)
	assert.True(t, dropped)
	assert.NotNil(t, locked.Holder)
}

func TestLive(t *testing.T) {
	path := newFileOf(t, []byte("x"))
	o := newOther(t, path)
	f := mustOpen(t, path, sharing)
	assert.False(t, f.Live())
	o.hold(qemuReader...)
	assert.False(t, f.Live(), "a reader changes nothing")
	o.release()
	o.hold(103)
	assert.True(t, f.Live(), "a writer that came after us")
	o.release()
	assert.True(t, f.Live(), "it has been there")

	o.hold(qemuWriter...)
	assert.True(t, mustOpen(t, path, sharing).Live(), "a writer that was there before us")
	o.release()
	assert.False(t, mustOpen(t, path, sharing).Live(), "it is gone")
	require.NoError(t, f.Close())

	// Who locks properly cannot be beside a writer, whatever bytes turn up.
	check := mustOpen(t, path, checking)
	o.hold(101)
	assert.False(t, check.Live())
}

// Of several that start at once none may get in beside another, though all may
// lose: first set, then test.
func TestRacersNeverBothWin(t *testing.T) {
	path := newFileOf(t, []byte("x"))
	const racers, rounds = 4, 2000
	var inside, wins atomic.Int32
	var wg sync.WaitGroup
	for range racers {
		conn, err := newOther(t, path).f.SyscallConn()
		require.NoError(t, err)
		l := newLocks(conn)
		wg.Go(func() {
			for range rounds {
				if _, _, err := l.try(planFor(repairing)); err == nil {
					wins.Add(1)
					assert.EqualValues(t, 1, inside.Add(1))
					inside.Add(-1)
				}
				l.drop()
			}
		})
	}
	wg.Wait()
	t.Logf("%d of %d got in", wins.Load(), racers*rounds)
	assert.Positive(t, wins.Load())
}

// refusing answers every locking command of one kind with an error.
func refusing(cmd int, errno error) func(uintptr, int, *unix.Flock_t) error {
	return func(fd uintptr, c int, lk *unix.Flock_t) error {
		if c == cmd && lk.Type != unix.F_UNLCK {
			return errno
		}
		return unix.FcntlFlock(fd, c, lk)
	}
}

func TestWithoutLocksInTheFileSystem(t *testing.T) {
	for _, cmd := range []int{unix.F_OFD_SETLK, unix.F_OFD_GETLK} {
		for _, tc := range []struct {
			errno unix.Errno
			state LockState
			fails bool
		}{
			{unix.EINVAL, LockUnsupported, false},
			{unix.ENOLCK, LockUnsupported, false},
			{unix.ENOTSUP, LockUnsupported, false},
			{unix.ENOSYS, LockUnsupported, false},
			{unix.EIO, LockTaken, true},
		} {
			path := newFileOf(t, []byte("x"))
			file, err := os.Open(path)
			require.NoError(t, err)
			defer file.Close()
			conn, err := file.SyscallConn()
			require.NoError(t, err)
			l := newLocks(conn)
			l.fcntl = refusing(cmd, tc.errno)
			state, err := l.take(planFor(checking))
			if tc.fails {
				assert.ErrorIs(t, err, tc.errno)
			} else {
				assert.NoError(t, err)
				assert.Equal(t, tc.state, state)
			}
			assert.Empty(t, newOther(t, path).seen(), "no half of a plan stays")
		}
	}
}

func TestAnInterruptedLockIsTriedAgain(t *testing.T) {
	path := newFileOf(t, []byte("x"))
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	conn, err := file.SyscallConn()
	require.NoError(t, err)
	l := newLocks(conn)
	calls := 0
	l.fcntl = func(fd uintptr, cmd int, lk *unix.Flock_t) error {
		if calls++; calls%2 == 1 {
			return unix.EINTR
		}
		return unix.FcntlFlock(fd, cmd, lk)
	}
	state, err := l.take(planFor(checking))
	require.NoError(t, err)
	assert.Equal(t, LockTaken, state)
	assert.Equal(t, qemuReader, newOther(t, path).seen())
}

func TestLockEntries(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       []lockEntry
	}{
		{"none", "pos:\t0\nflags:\t0100002\n", nil},
		{"one", "pos:\t0\nlock:\t1: OFDLCK  ADVISORY  READ -1 fe:00:1234 100 101\n", []lockEntry{{"fe:00:1234", 100, 101}}},
		{"two", "lock:\t1: OFDLCK ADVISORY READ -1 fe:00:1 3 4\nlock:\t2: OFDLCK ADVISORY READ -1 fe:00:1 101 101\n",
			[]lockEntry{{"fe:00:1", 3, 4}, {"fe:00:1", 101, 101}}},
		{"to the end", "lock:\t1: POSIX  ADVISORY  WRITE 77 fe:00:1 0 EOF\n", []lockEntry{{"fe:00:1", 0, math.MaxInt64}}},
		{"cut short", "lock:\t1: OFDLCK  ADVISORY\n", nil},
		{"not a number", "lock:\t1: OFDLCK  ADVISORY  READ -1 fe:00:1 x 4\nlock:\t1: OFDLCK  ADVISORY  READ -1 fe:00:1 4 x\n", nil},
	} {
		assert.Equal(t, tc.want, slices.Collect(lockEntries([]byte(tc.text))), tc.name)
	}
}
