//go:build !linux

package imagefile

import "errors"

// Note gives the note that was left with the file: never any here.
func (f *File) Note() (string, error) { return "", nil }

// SetNote fails: notes are left with files on Linux alone.
func (f *File) SetNote(string) error { return errors.ErrUnsupported }

// ClearNote takes the note away, if there is one.
func (f *File) ClearNote() error { return nil }
