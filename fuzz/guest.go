package fuzz

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/fuzz/internal/process"
	"github.com/qcheck/qcheck/qcow2"
)

// Guest is whose reading of a disk the command's standard output is compared with.
type Guest string

// The readers to compare with.
const (
	// GuestNone: the command's output is not looked at.
	GuestNone Guest = ""
	// GuestQcheck: what this project's reader gets.
	GuestQcheck Guest = "qcheck"
	// GuestQEMU: what `qemu-img convert` gets.
	GuestQEMU Guest = "qemu"
	// GuestOther: what [Runner.Against] writes to its standard output.
	GuestOther Guest = "other"
)

// reference opens what a command's output is to be compared with; nil where there is
// nothing: the image is not to be opened, or its disk is too large.
func (s *session) reference(ctx context.Context, dir string, img *corpus.Image) (io.ReaderAt, int64, error) {
	q, err := img.Open()
	if err != nil || !q.GeometryOK || q.Header.CryptMethod != qcow2.CryptNone {
		return nil, 0, nil
	}
	files := qcow2.Files{Open: func(_, name string) (qcow2.Source, string, error) {
		if f := img.Siblings[name]; f != nil {
			return f, name, nil
		}
		return nil, "", fs.ErrNotExist
	}}
	disk, err := q.ActiveDisk(files.DiskOptions(imageName))
	if err != nil || uint64(disk.Size()) > s.MaxDisk || !q.Header.Known() || q.Header.IncompatibleFeatures&^qcow2.IncompatKnown != 0 {
		return nil, 0, nil
	}
	if s.Guest == GuestQcheck {
		return disk, disk.Size(), nil
	}
	out := filepath.Join(dir, "reference.raw")
	path := filepath.Join(dir, "images", imageName)
	os.Remove(out)
	command := []string{"sh", "-c", strings.ReplaceAll(s.Against, Placeholder, path)}
	if s.Guest == GuestQEMU {
		program, err := exec.LookPath("qemu-img")
		if err != nil {
			return nil, 0, err
		}
		command = []string{program, "convert", "-f", "qcow2", "-O", "raw", path, out}
	}
	f, err := os.Create(out)
	if err != nil {
		return nil, 0, err
	}
	said := &process.Tail{}
	p := process.Process{Args: command, Stdout: f, Stderr: said, Timeout: s.Timeout, Memory: s.Memory}
	e, err := p.Run(ctx)
	if err == nil && e.RC == 0 {
		var st os.FileInfo
		if st, err = f.Stat(); err == nil {
			return &closing{f}, st.Size(), nil
		}
	}
	f.Close()
	return nil, 0, err
}

// closing is a file that is closed when its comparison ends.
type closing struct{ *os.File }

// against takes what a command writes and compares it with the reference while it
// comes.
type against struct {
	ref      io.ReaderAt
	size     int64
	got      int64
	buf      []byte
	differs  int64 // the first byte that differs; -1: none so far
	madeUp   int64 // the first byte that the reference cannot read; -1: none so far
	overlong bool
}

func newAgainst(ref io.ReaderAt, size int64) *against {
	return &against{ref: ref, size: size, differs: -1, madeUp: -1, buf: make([]byte, 64<<10)}
}

// Write compares the next bytes.
func (a *against) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := min(len(p), len(a.buf))
		if a.got+int64(k) > a.size {
			if k = int(max(0, a.size-a.got)); k == 0 {
				a.overlong = true
				a.got += int64(len(p))
				return n, nil
			}
		}
		if a.differs < 0 && a.madeUp < 0 {
			a.compare(p[:k])
		}
		a.got += int64(k)
		p = p[k:]
	}
	return n, nil
}

func (a *against) compare(p []byte) {
	want := a.buf[:len(p)]
	if _, err := a.ref.ReadAt(want, a.got); err != nil && err != io.EOF {
		a.madeUp = a.got
		return
	}
	if bytes.Equal(p, want) {
		return
	}
	for i := range p {
		if p[i] != want[i] {
			a.differs = a.got + int64(i)
			return
		}
	}
}

// failure tells what is wrong with what a command wrote that said that all is well.
func (a *against) failure(img *corpus.Image) *Failure {
	f := &Failure{Kind: "wrong"}
	switch {
	case a.differs >= 0:
		f.Detail = "other data than the guest's in " + kindAt(img, a.differs)
		f.Said = fmt.Sprintf("the first byte that differs is at %#x of the disk\n", a.differs)
	case a.madeUp >= 0:
		f.Detail = "data where there is an error, in " + kindAt(img, a.madeUp)
		f.Said = fmt.Sprintf("at %#x of the disk or behind it nothing can be read\n", a.madeUp)
	case a.overlong:
		f.Detail = "more bytes than the disk has"
	case a.got < a.size:
		f.Detail = "fewer bytes than the disk has"
	default:
		return nil
	}
	f.Said += fmt.Sprintf("the disk has %d bytes, the command gave %d\n", a.size, a.got)
	return f
}

// kindAt names what the disk is made of at a place.
func kindAt(img *corpus.Image, off int64) string {
	q, err := img.Open()
	if err != nil {
		return "an image of another format"
	}
	disk, err := q.ActiveDisk(qcow2.DiskOptions{})
	if err != nil || off >= disk.Size() {
		return "no part of the disk"
	}
	for x, err := range disk.Map(qcow2.GuestOffset(off), qcow2.GuestOffset(off+1)) {
		if err != nil {
			return "a part whose entry is damaged"
		}
		return fmt.Sprintf("a part that is %v", x.Kind)
	}
	return "no part of the disk"
}
