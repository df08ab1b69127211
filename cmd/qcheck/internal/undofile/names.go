package undofile

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// freshInfix follows a journal's name until it is whole.
const freshInfix = ".new-"

// renameIfFree is rename where the system cannot do it in one step. The image is locked
// meanwhile, so nobody else makes a journal of it.
func renameIfFree(from, to string) error {
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fs.ErrExist
		}
		return err
	}
	return os.Rename(from, to)
}

// Older gives the places of the journals that later repairs have moved out of the way,
// the newest first: disk.qcow2.qcheck-undo.2, then .1.
func (p *Place) Older() ([]*Place, error) {
	numbers, err := p.numbers()
	if err != nil {
		return nil, err
	}
	var list []*Place
	for _, n := range numbers {
		list = append(list, p.at(p.Path+"."+strconv.FormatUint(n, 10)))
	}
	return list, nil
}

// Unfinished gives the places of journals that were never whole, and so never got their
// name.
func (p *Place) Unfinished() (list []*Place) {
	_ = p.siblings(func(rest string) {
		if strings.HasPrefix(rest, freshInfix) {
			list = append(list, p.at(p.Path+rest))
		}
	})
	return list
}

// at is another place for the same image.
func (p *Place) at(path string) *Place {
	return &Place{Path: path, Image: p.Image, ReadOnly: p.ReadOnly}
}

// numbers gives those of the journals that were moved out of the way, the largest first.
func (p *Place) numbers() (list []uint64, err error) {
	err = p.siblings(func(rest string) {
		digits, ok := strings.CutPrefix(rest, ".")
		n, err := strconv.ParseUint(digits, 10, 62)
		if ok && err == nil && strconv.FormatUint(n, 10) == digits {
			list = append(list, n)
		}
	})
	slices.SortFunc(list, func(a, b uint64) int { return cmp.Compare(b, a) })
	return list, err
}

// siblings calls do with what follows the journal's name in the name of each file in its
// folder that begins with it.
func (p *Place) siblings(do func(rest string)) error {
	dir, err := os.Open(filepath.Dir(p.Path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return cause(err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	base := filepath.Base(p.Path)
	for _, name := range names {
		if rest, ok := strings.CutPrefix(name, base); ok && rest != "" {
			do(rest)
		}
	}
	return cause(err)
}

// makeRoom moves a finished journal out of the way of a new one.
func (p *Place) makeRoom() error {
	numbers, err := p.numbers()
	if err != nil {
		return err
	}
	n := uint64(1)
	if len(numbers) > 0 {
		n = numbers[0] + 1
	}
	return cause(rename(p.Path, p.Path+"."+strconv.FormatUint(n, 10)))
}

// Devices gives the places of all journals in the folder for those of block devices: a
// device can have other names tomorrow.
func Devices(image fs.FileInfo) (list []*Place) {
	dir := stateDir()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if name := e.Name(); strings.HasSuffix(name, Suffix) && e.Type().IsRegular() {
			list = append(list, &Place{Path: filepath.Join(dir, name), Image: image})
		}
	}
	return list
}

// Size is the length of the journal's file in bytes.
func (p *Place) Size() (int64, error) {
	info, err := os.Lstat(p.Path)
	if err != nil {
		return 0, cause(err)
	}
	return info.Size(), nil
}
