package inputs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// collect gives the paths and the errors, in their order.
func collect(args, lists []string, stdin io.Reader) (paths []string, errs []error) {
	for path, err := range Paths(args, lists, stdin) {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		paths = append(paths, path)
	}
	return paths, errs
}

func TestAListOfPaths(t *testing.T) {
	long := strings.Repeat("x", 5000) // past what decides between lines and NULs
	for _, tc := range []struct {
		name, text string
		want       []string
	}{
		{"empty", "", nil},
		{"lines", "a\nb\nc\n", []string{"a", "b", "c"}},
		{"no end of line at the end", "a\nb", []string{"a", "b"}},
		{"blank lines", "\n\na\n \t\n\r\nb\n\n", []string{"a", "b"}},
		{"lines of Windows", "a\r\nb\r\n", []string{"a", "b"}},
		{"nothing is a comment", "#a\n# b\n", []string{"#a", "# b"}},
		{"spaces belong to the path", " a \nb c\n", []string{" a ", "b c"}},
		{"quotes too", "\"a\"\n'b'\n\\c\n", []string{`"a"`, `'b'`, `\c`}},
		{"bytes that are no text", "\xff\xfe\n\x1b\n", []string{"\xff\xfe", "\x1b"}},
		{"again", "a\nb\na\n./a\n", []string{"a", "b", "./a"}},
		{"more than is looked at first", long + "\n" + long + "y\n", []string{long, long + "y"}},
		{"NULs", "a\x00b\x00", []string{"a", "b"}},
		{"NULs, no end at the end", "a\x00b", []string{"a", "b"}},
		{"NULs and blanks", "\x00\x00a\x00\x00 \x00", []string{"a", " "}},
		{"lines within NULs", "a\nb\x00c\r\n\x00#d\x00", []string{"a\nb", "c\r\n", "#d"}},
		{"the last byte that decides", strings.Repeat("x", 4095) + "\x00a\nb\x00", []string{strings.Repeat("x", 4095), "a\nb"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, stdin := range []io.Reader{
				strings.NewReader(tc.text),
				iotest.OneByteReader(strings.NewReader(tc.text)),
				iotest.DataErrReader(strings.NewReader(tc.text)),
			} {
				paths, errs := collect(nil, []string{Stdin}, stdin)
				assert.Empty(t, errs)
				assert.Equal(t, tc.want, paths)
			}
			list := filepath.Join(t.TempDir(), "list")
			require.NoError(t, os.WriteFile(list, []byte(tc.text), 0o600))
			paths, errs := collect(nil, []string{list}, nil)
			assert.Empty(t, errs)
			assert.Equal(t, tc.want, paths)
		})
	}
}

func TestArgumentsComeFirstAndNothingTwice(t *testing.T) {
	dir := t.TempDir()
	list := filepath.Join(dir, "list")
	require.NoError(t, os.WriteFile(list, []byte("b\nd\n"), 0o600))
	paths, errs := collect([]string{"c", "b", "c", "", "."}, []string{Stdin, list}, strings.NewReader("a\nb\n-\n"))
	assert.Empty(t, errs)
	assert.Equal(t, []string{"c", "b", "", ".", "a", "-", "d"}, paths)

	paths, errs = collect(nil, nil, nil)
	assert.Empty(t, paths)
	assert.Empty(t, errs)
}

func TestWhatIsWrongWithAListIsToldInItsPlace(t *testing.T) {
	dir := t.TempDir()
	broken := errors.New("broken")
	for _, tc := range []struct {
		name  string
		list  string
		stdin io.Reader
		paths []string
		entry int64
		err   error
	}{
		{"missing", filepath.Join(dir, "none"), nil, nil, 0, fs.ErrNotExist},
		{"no standard input", Stdin, nil, nil, 0, errNoReader},
		{"fails at once", Stdin, iotest.ErrReader(broken), nil, 0, broken},
		{"fails later, with a line cut short", Stdin,
			io.MultiReader(strings.NewReader("a\nb\nc"), iotest.ErrReader(broken)), []string{"a", "b"}, 3, broken},
		{"fails far into it", Stdin,
			io.MultiReader(strings.NewReader("a\n"+strings.Repeat("\n", 9998)), iotest.ErrReader(broken)), []string{"a"}, 10000, broken},
		{"an image", Stdin, strings.NewReader("QFI\xfb\x00\x00\x00\x03"), nil, 0, ErrNotList},
		{"a NUL among lines", Stdin, strings.NewReader(strings.Repeat("a\n", 2100) + "b\x00c\nd\n"), []string{"a"}, 2101, ErrNUL},
		{"a line without end", Stdin, strings.NewReader("a\n" + strings.Repeat("x", 1<<20) + "\nb\n"), []string{"a"}, 2, ErrTooLong},
		{"a NUL entry without end", Stdin, strings.NewReader("a\x00" + strings.Repeat("x", 1<<20)), []string{"a"}, 2, ErrTooLong},
	} {
		t.Run(tc.name, func(t *testing.T) {
			next := filepath.Join(t.TempDir(), "next")
			require.NoError(t, os.WriteFile(next, []byte("z\n"), 0o600))
			paths, errs := collect(nil, []string{tc.list, next}, tc.stdin)
			assert.Equal(t, append(tc.paths, "z"), paths, "the next list is read")
			require.Len(t, errs, 1)
			le, ok := errors.AsType[*ListError](errs[0])
			require.True(t, ok)
			assert.Equal(t, tc.list, le.List)
			assert.Equal(t, tc.entry, le.Entry)
			assert.ErrorIs(t, le, tc.err)
			assert.NotEmpty(t, le.Error())
		})
	}

	_, errs := collect(nil, []string{dir}, nil)
	assert.Len(t, errs, 1, "a directory is not a list")
}

// An error is told once; what has failed is not asked again.
func TestAFailedSourceIsNotReadOn(t *testing.T) {
	broken := errors.New("broken")
	src := io.MultiReader(strings.NewReader("a\nb"), &failsOnce{err: broken}, strings.NewReader("c\n"))
	paths, errs := collect(nil, []string{Stdin}, src)
	assert.Equal(t, []string{"a"}, paths)
	require.Len(t, errs, 1)
	assert.ErrorIs(t, errs[0], broken)
}

type failsOnce struct{ err error }

func (f *failsOnce) Read([]byte) (int, error) {
	if f.err != nil {
		err := f.err
		f.err = nil
		return 0, err
	}
	return 0, io.EOF
}

func TestStoppingEarlyReadsNoFurther(t *testing.T) {
	src := &counting{r: &endless{}}
	for path, err := range Paths([]string{"first"}, []string{Stdin}, src) {
		require.NoError(t, err)
		assert.Equal(t, "first", path)
		break
	}
	assert.Zero(t, src.n)
	n := 0
	for _, err := range Paths(nil, []string{Stdin, "/nonexistent"}, src) {
		require.NoError(t, err)
		if n++; n == 10 {
			break
		}
	}
	assert.LessOrEqual(t, src.n, int64(2*maxEntry))
}

// The list of a million images is never in memory.
func TestAMillionPaths(t *testing.T) {
	n := 1_000_000
	if testing.Short() {
		n /= 10
	}
	var before, after runtime.MemStats
	src := io.LimitReader(&endless{prefix: strings.Repeat("d", 190) + "/"}, int64(n)*200)
	runtime.GC()
	runtime.ReadMemStats(&before)
	count, peak := 0, uint64(0)
	for _, err := range Paths(nil, []string{Stdin}, src) {
		require.NoError(t, err)
		if count++; count == n {
			runtime.GC()
			runtime.ReadMemStats(&after)
			peak = after.HeapAlloc - min(before.HeapAlloc, after.HeapAlloc)
		}
	}
	assert.Equal(t, n, count)
	t.Logf("%d bytes held for each of %d paths of 199 bytes", peak/uint64(n), n)
	assert.Less(t, peak, uint64(n)*100)
}

// endless gives lines that are all different, of the prefix and 8 digits.
type endless struct {
	prefix string
	n      int
	left   []byte
}

func (e *endless) Read(p []byte) (int, error) {
	if len(e.left) == 0 {
		var b bytes.Buffer
		for range 100 {
			fmt.Fprintf(&b, "%s%08d\n", e.prefix, e.n)
			e.n++
		}
		e.left = b.Bytes()
	}
	n := copy(p, e.left)
	e.left = e.left[n:]
	return n, nil
}

type counting struct {
	r io.Reader
	n int64
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

func FuzzList(f *testing.F) {
	for _, s := range []string{"a\nb\r\n\n#c", "a\x00b\nc\x00", "QFI\xfb\x00", "\x00\x00", "a\na\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		seen := map[string]bool{}
		paths, errs := collect(nil, []string{Stdin}, bytes.NewReader(text))
		for _, p := range paths {
			assert.NotEmpty(t, p)
			assert.NotContains(t, p, "\x00")
			assert.Contains(t, string(text), p)
			assert.False(t, seen[p], "%q twice", p)
			seen[p] = true
		}
		assert.LessOrEqual(t, len(errs), 1)
	})
}
