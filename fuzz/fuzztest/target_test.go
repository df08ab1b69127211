package fuzztest_test

import (
	"io"
	"testing"

	"github.com/qcheck/qcheck/fuzz/fuzztest"
	"github.com/qcheck/qcheck/qcow2"
)

// FuzzOwnReader fuzzes this project's own reader, and is the example.
func FuzzOwnReader(f *testing.F) {
	fuzztest.Target(f, func(r io.ReaderAt, size int64) error {
		img, err := qcow2.Open(r, size)
		if err != nil {
			return err
		}
		disk, err := img.ActiveDisk(qcow2.DiskOptions{})
		if err != nil {
			return err
		}
		_, err = disk.ReadAt(make([]byte, 64<<10), 0)
		return err
	})
}
