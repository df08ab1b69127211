// Package inputs says which images a command is to look at: those named as
// arguments, and those named in lists, each once and in order, without holding a
// list in memory.
//
// A list names one path a line. A line ends with LF or CR LF; lines that are empty
// or white space are passed over, and everything else is part of a path: spaces at
// its ends, quotes, and # too, which may well begin a file's name. Paths that
// cannot be written so are separated by NUL bytes instead, as `find -print0` does:
// a list with a NUL among its first 4,096 bytes, the most that a path can take up,
// is read in that way, and there every byte but NUL belongs to a path. Relative
// paths are relative to the working directory, not to the list.
package inputs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"iter"
	"os"
	"strconv"
)

// Stdin is the name of a list that stands for standard input.
const Stdin = "-"

const (
	// maxPath is the longest path that Linux takes, its final NUL included.
	maxPath = 4096
	// maxEntry bounds what is read in search of an entry's end. It is more than
	// any system takes for a path.
	maxEntry = 64 << 10
)

// The errors of a list that a [ListError] may carry, beside those of reading it.
var (
	ErrNotList  = errors.New("a disk image, not a list of images: give it as an argument")
	ErrTooLong  = errors.New("longer than a path can be: is this a list of paths?")
	ErrNUL      = errors.New("a NUL byte in a list of lines: is this a list of paths?")
	errNoReader = errors.New("there is no standard input")
)

// ListError is what is wrong with a list of paths.
type ListError struct {
	List  string // its path, or Stdin
	Entry int64  // counted from 1, lines without a path included; 0 when it is about the list as a whole
	Err   error
}

func (e *ListError) Error() string {
	list := e.List
	if list == Stdin {
		list = "standard input"
	}
	if e.Entry == 0 {
		return fmt.Sprintf("%s: %v", list, e.Err)
	}
	return list + ":" + strconv.FormatInt(e.Entry, 10) + ": " + e.Err.Error()
}

func (e *ListError) Unwrap() error { return e.Err }

// Paths gives the paths of args and then those named in lists, one by one as they
// are asked for. What is named again is left out: the same path, letter by letter,
// not the same file by another name. A list is opened when it is its turn. What is
// wrong with a list ends it and comes as a [*ListError] in its place, with an empty
// path; the next list follows. stdin is read for a list named [Stdin]; it may be
// nil where there is none.
//
// For each path some tens of bytes are remembered, but never the path.
func Paths(args, lists []string, stdin io.Reader) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		seen := newSet()
		once := func(path string, err error) bool {
			return err == nil && !seen.add(path) || yield(path, err)
		}
		for _, path := range args {
			if !once(path, nil) {
				return
			}
		}
		for _, list := range lists {
			for path, err := range listed(list, stdin) {
				if !once(path, err) {
					return
				}
			}
		}
	}
}

// listed gives the paths of one list.
func listed(list string, stdin io.Reader) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		fail := func(entry int64, err error) {
			if pe, ok := errors.AsType[*fs.PathError](err); ok {
				err = pe.Err
			}
			yield("", &ListError{List: list, Entry: entry, Err: err})
		}
		if list == Stdin && stdin == nil {
			fail(0, errNoReader)
			return
		}
		src := stdin
		if list != Stdin {
			file, err := os.Open(list)
			if err != nil {
				fail(0, err)
				return
			}
			defer file.Close()
			src = file
		}
		head := make([]byte, maxPath)
		n, err := io.ReadFull(src, head)
		head = head[:n]
		if n == 0 && err != io.EOF {
			fail(0, err) // a directory, for one
			return
		}
		// A slip that would else give a thousand file names of rubbish.
		if bytes.HasPrefix(head, []byte("QFI\xfb")) {
			fail(0, ErrNotList)
			return
		}
		end := byte('\n')
		if bytes.IndexByte(head, 0) >= 0 {
			end = 0
		}
		if err == nil {
			src = io.MultiReader(bytes.NewReader(head), src)
		} else {
			src = io.MultiReader(bytes.NewReader(head), failing{err})
		}
		r := bufio.NewReaderSize(src, maxEntry)
		for entry := int64(1); ; entry++ {
			text, err := r.ReadSlice(end)
			if errors.Is(err, bufio.ErrBufferFull) {
				fail(entry, ErrTooLong)
				return
			}
			if err != nil && err != io.EOF {
				// What was read of this entry may not be all of it.
				fail(entry, err)
				return
			}
			switch path := trim(text, end); {
			case len(path) == 0:
			case bytes.IndexByte(path, 0) >= 0:
				fail(entry, ErrNUL)
				return
			case !yield(string(path), nil):
				return
			}
			if err == io.EOF {
				return
			}
		}
	}
}

// failing is what is left of a source that has failed or ended: asking it again
// might wait for a terminal, or lose the error.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if errors.Is(f.err, io.ErrUnexpectedEOF) {
		return 0, io.EOF // of io.ReadFull, for a source shorter than it asked for
	}
	return 0, f.err
}

// trim takes the end off an entry; what is left of a blank line is nothing.
func trim(text []byte, end byte) []byte {
	if end == 0 {
		return bytes.TrimSuffix(text, []byte{0})
	}
	text = bytes.TrimSuffix(text, []byte{'\n'})
	text = bytes.TrimSuffix(text, []byte{'\r'})
	if len(bytes.TrimSpace(text)) == 0 {
		return nil
	}
	return text
}

// set remembers strings by hashes of 128 bits: short, and too many for two paths
// ever to be taken for one.
type set struct {
	seeds [2]maphash.Seed
	seen  map[[2]uint64]struct{}
}

func newSet() *set {
	return &set{
		seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		seen:  map[[2]uint64]struct{}{},
	}
}

// add tells whether s is new.
func (s *set) add(text string) bool {
	key := [2]uint64{maphash.String(s.seeds[0], text), maphash.String(s.seeds[1], text)}
	before := len(s.seen)
	s.seen[key] = struct{}{}
	return len(s.seen) > before
}
