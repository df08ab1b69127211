// Package fuzztest makes a native fuzz target of any Go reader of qcow2:
//
//	func FuzzMyReader(f *testing.F) {
//		fuzztest.Target(f, func(r io.ReaderAt, size int64) error {
//			_, err := myreader.Open(r, size)
//			return err
//		})
//	}
//
// Go's fuzzer changes a byte string by what the reader covers, and the string says which
// image of the corpus is changed, and how: see [fuzz.NewMutantFrom]. It is apart from
// package fuzz so that programs do not link package testing.
package fuzztest

import (
	"fmt"
	"io"
	"runtime/debug"
	"testing"
	"time"

	"github.com/qcheck/qcheck/fuzz"
)

// slowest is what reading a mutant may take. Go's fuzzer has a limit of its own, which
// ends the whole worker and keeps nothing.
const slowest = 5 * time.Second

// Target fuzzes a reader with images of the corpus and changes of them. An error that
// read gives is the right answer to a broken image; a panic, and running for more than
// five seconds, fail the target and tell the mutant in words. The seeds of the target are
// images of many kinds as they are, and one change of each.
func Target(f *testing.F, read func(r io.ReaderAt, size int64) error) {
	f.Helper()
	TargetOf(f, new(fuzz.Images), read)
}

// TargetOf is [Target] with images of the caller's choice.
func TargetOf(f *testing.F, images *fuzz.Images, read func(r io.ReaderAt, size int64) error) {
	f.Helper()
	for i := range 64 {
		f.Add([]byte{byte(i * 4), 0})
		f.Add([]byte{byte(i * 4), byte(i), byte(i * 37), byte(i * 11), byte(i * 53), byte(i * 7)})
	}
	f.Fuzz(func(t *testing.T, choices []byte) {
		m, img, err := fuzz.NewMutantFrom(images, choices)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan any, 1)
		go func() {
			defer func() {
				p := recover()
				if p != nil {
					p = fmt.Sprintf("%v\n%s", p, debug.Stack())
				}
				ended <- p
			}()
			_ = read(img, img.Size()) // an error is an answer
		}()
		timer := time.NewTimer(slowest)
		defer timer.Stop()
		select {
		case p := <-ended:
			if p != nil {
				t.Fatalf("on %s\nthe reader panics: %v", m, p)
			}
		case <-timer.C:
			t.Fatalf("on %s\nthe reader takes more than %v", m, slowest)
		}
	})
}
