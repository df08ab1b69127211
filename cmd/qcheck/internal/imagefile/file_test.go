package imagefile

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// newFileOf makes a file with some content and gives its path.
func newFileOf(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	require.NoError(t, os.WriteFile(path, content, 0o600))
	return path
}

// mustOpen opens a file that is closed with the test at the latest.
func mustOpen(t testing.TB, path string, opts Options) *File {
	t.Helper()
	f, err := Open(path, opts)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func TestOpenForACheckReadsAndNeverWrites(t *testing.T) {
	content := []byte("QFI\xfb and so on")
	path := newFileOf(t, content)
	before, err := os.Stat(path)
	require.NoError(t, err)

	f := mustOpen(t, path, Options{})
	assert.EqualValues(t, len(content), f.Size())
	assert.False(t, f.IsDevice())
	assert.False(t, f.Live())

	got := make([]byte, 7)
	n, err := f.ReadAt(got, 4)
	assert.NoError(t, err)
	assert.Equal(t, content[4:11], got[:n])
	n, err = f.ReadAt(got, f.Size()-3)
	assert.ErrorIs(t, err, io.EOF)
	assert.Equal(t, 3, n)

	_, err = f.WriteAt([]byte("x"), 0)
	assert.ErrorIs(t, err, ErrReadOnly)
	assert.ErrorIs(t, f.Truncate(0), ErrReadOnly)
	require.NoError(t, f.Close())

	after, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, before.ModTime(), after.ModTime())
	now, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, content, now)
}

func TestOpenForARepairWrites(t *testing.T) {
	path := newFileOf(t, make([]byte, 100))
	f := mustOpen(t, path, Options{Write: true})
	n, err := f.WriteAt([]byte("abc"), 200)
	require.NoError(t, err)
	assert.Equal(t, 3, n)
	require.NoError(t, f.Sync())
	assert.EqualValues(t, 100, f.Size())
	now, err := f.CurrentSize()
	require.NoError(t, err)
	assert.EqualValues(t, 203, now)

	require.NoError(t, f.Truncate(50))
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.EqualValues(t, 50, info.Size())
}

func TestOpenReadsThroughALinkAndWithoutWritePermission(t *testing.T) {
	path := newFileOf(t, []byte("0123456789"))
	require.NoError(t, os.Chmod(path, 0o400))
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(path, link))
	assert.EqualValues(t, 10, mustOpen(t, link, Options{}).Size())
}

func TestOpenAnEmptyFile(t *testing.T) {
	f := mustOpen(t, newFileOf(t, nil), Options{})
	assert.Zero(t, f.Size())
	start, end, err := f.NextData(0)
	assert.NoError(t, err)
	assert.Zero(t, start)
	assert.Zero(t, end)
}

func TestOpenRefusesWhatCannotHoldAnImage(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	defer listener.Close()

	for _, tc := range []struct {
		path string
		bits fs.FileMode
	}{
		{dir, fs.ModeDir},
		{socket, fs.ModeSocket},
		{os.DevNull, fs.ModeDevice | fs.ModeCharDevice},
	} {
		for _, opts := range []Options{{}, {ForceShare: true}, {Write: true}, {Kind: DataFile}, {Kind: BackingFile}} {
			_, err := Open(tc.path, opts)
			open, ok := errors.AsType[*OpenError](err)
			require.True(t, ok, "%s: %v", tc.path, err)
			assert.Equal(t, tc.path, open.Path)
			assert.Equal(t, opts.Kind, open.Kind)
			kind, ok := errors.AsType[*NotRegularError](err)
			require.True(t, ok, "%s: %v", tc.path, err)
			assert.Equal(t, tc.bits, kind.Mode.Type())
		}
	}
}

func TestOpenRefusesAMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none")
	for _, opts := range []Options{{}, {Write: true}} {
		_, err := Open(path, opts)
		assert.ErrorIs(t, err, fs.ErrNotExist)
		_, ok := errors.AsType[*OpenError](err)
		assert.True(t, ok)
		assert.NoFileExists(t, path)
	}
	_, err := Open("", Options{})
	assert.ErrorIs(t, err, fs.ErrNotExist)
}

func TestOpenRefusesContradictoryOptions(t *testing.T) {
	path := newFileOf(t, []byte("x"))
	for _, opts := range []Options{
		{Write: true, ForceShare: true},
		{Write: true, Kind: BackingFile},
	} {
		_, err := Open(path, opts)
		_, ok := errors.AsType[*OptionError](err)
		assert.True(t, ok, "%+v: %v", opts, err)
	}
}

// The name of a backing file comes out of the image, and goes to a terminal.
func TestErrorsDoNotPrintControlCharacters(t *testing.T) {
	for _, name := range []string{"a\x1b]0;x\x07", "a\nb", "\xff\xfe", "", "a\u202eb", "a\x00b"} {
		_, err := Open(name, Options{Kind: BackingFile})
		require.Error(t, err)
		assert.NotRegexp(t, `[^\x20-\x7e]`, err.Error())
	}
	for _, name := range []string{"disk.qcow2", "Bild für Ümit 日本.qcow2", `C:\x`, "a b"} {
		assert.Equal(t, name, printable(name))
	}
	held := &LockedError{Holder: &Process{PID: 7, Name: "evil\x1b[2J"}}
	assert.NotContains(t, held.Error(), "\x1b")
}

func TestEveryConflictHasItsOwnWordsAndHint(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range []Conflict{ConflictWriter, ConflictExclusive, ConflictReader, ConflictForeign} {
		for _, holder := range []*Process{nil, {PID: 12}, {PID: 12, Name: "qemu-nbd"}} {
			text := (&LockedError{Conflict: c, Holder: holder}).Error()
			assert.NotContains(t, seen, text)
			seen[text] = true
		}
		assert.NotEmpty(t, (&LockedError{Conflict: c}).Hint())
		assert.NotEmpty(t, (&LockedError{Conflict: c, Write: true}).Hint())
	}
}

func TestNextDataNamesEveryByteThatIsNotZero(t *testing.T) {
	const size = 8 << 20
	path := newFileOf(t, nil)
	w, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer w.Close()
	require.NoError(t, w.Truncate(size))
	islands := []int64{1 << 20, 3<<20 + 5, size - 1}
	for _, at := range islands {
		_, err := w.WriteAt([]byte{1}, at)
		require.NoError(t, err)
	}

	f := mustOpen(t, path, Options{})
	covered := int64(0)
	for off := int64(0); off < f.Size(); {
		start, end, err := f.NextData(off)
		require.NoError(t, err)
		require.GreaterOrEqual(t, start, off)
		for _, at := range islands {
			require.False(t, off <= at && at < start, "the byte at %d is said to be in a hole", at)
		}
		if start == f.Size() {
			break
		}
		require.Greater(t, end, start)
		require.LessOrEqual(t, end, f.Size())
		covered += end - start
		off = end
	}
	t.Logf("%d of %d bytes are data", covered, size)
	assert.GreaterOrEqual(t, covered, int64(len(islands)))

	// From within an extent: it begins where it is asked for.
	start, _, err := f.NextData(islands[1])
	require.NoError(t, err)
	assert.Equal(t, islands[1], start)
	for _, off := range []int64{size, size + 1, 1 << 62} {
		start, end, err := f.NextData(off)
		assert.NoError(t, err)
		assert.EqualValues(t, size, start)
		assert.EqualValues(t, size, end)
	}
	start, _, err = f.NextData(-1)
	assert.NoError(t, err)
	assert.LessOrEqual(t, start, islands[0])
}

func TestSizeStaysWhileALiveFileGrows(t *testing.T) {
	path := newFileOf(t, bytes.Repeat([]byte{1}, 4096))
	f := mustOpen(t, path, Options{ForceShare: true})
	require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte{1}, 64<<10), 0o600))
	assert.EqualValues(t, 4096, f.Size())
	now, err := f.CurrentSize()
	require.NoError(t, err)
	assert.EqualValues(t, 64<<10, now)
	_, end, err := f.NextData(0)
	require.NoError(t, err)
	assert.EqualValues(t, 4096, end)
}

func TestAClosedFileSaysSo(t *testing.T) {
	f := mustOpen(t, newFileOf(t, make([]byte, 4096)), Options{ForceShare: true})
	require.NoError(t, f.Close())
	_, err := f.ReadAt(make([]byte, 1), 0)
	assert.ErrorIs(t, err, os.ErrClosed)
	_, err = f.CurrentSize()
	assert.ErrorIs(t, err, os.ErrClosed)
	assert.False(t, f.Live())
	assert.ErrorIs(t, f.Close(), os.ErrClosed)
}

// within fails the test if f does not come back soon.
func within(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("does not come back")
	}
}
