package main

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/qcheck/qcheck/qcow2"
)

// pieceBytes is how much is read in one go.
const pieceBytes = 1 << 20

// readMetadata reads the bytes that a check of the image has to read, in the
// order of the file, in large pieces, by as many goroutines as there are
// processors, and does nothing with them: no check can be faster.
func readMetadata(path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	pieces, err := metadata(f)
	if err != nil {
		return err
	}
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			b := make([]byte, pieceBytes)
			for {
				mu.Lock()
				if len(pieces) == 0 || len(errs) > 0 {
					mu.Unlock()
					return
				}
				x := pieces[0]
				pieces = pieces[1:]
				mu.Unlock()
				if _, err := f.ReadAt(b[:x.Length], int64(x.Offset)); err != nil && err != io.EOF {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// metadata lists where the tables of an image are: pieces of pieceBytes at most,
// in the order of the file. The image is sound.
func metadata(f *os.File) ([]qcow2.Extent, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	img, err := qcow2.Open(f, info.Size())
	if err != nil {
		return nil, err
	}
	cs := img.Geometry.ClusterSize()
	var at []qcow2.HostOffset
	for _, table := range []qcow2.Extent{
		{Offset: img.Header.L1TableOffset, Length: 8 * uint64(img.Header.L1Size)},
		{Offset: img.Header.RefcountTableOffset, Length: cs * uint64(img.Header.RefcountTableClusters)},
	} {
		b := make([]byte, table.Length)
		if _, err := f.ReadAt(b, int64(table.Offset)); err != nil {
			return nil, err
		}
		for ; len(b) > 0; b = b[8:] {
			// The entries of both tables hold their offset in the same bits.
			if off := qcow2.L1Entry(binary.BigEndian.Uint64(b)).Offset(); off != 0 {
				at = append(at, off)
			}
		}
	}
	slices.Sort(at)
	var pieces []qcow2.Extent
	for _, off := range slices.Compact(at) {
		for done := uint64(0); done < cs; {
			n := min(cs-done, pieceBytes)
			x := qcow2.Extent{Offset: off + qcow2.HostOffset(done), Length: n}
			if k := len(pieces) - 1; k >= 0 && uint64(pieces[k].Offset)+pieces[k].Length == uint64(x.Offset) && pieces[k].Length+n <= pieceBytes {
				pieces[k].Length += n
			} else {
				pieces = append(pieces, x)
			}
			done += n
		}
	}
	return pieces, nil
}
