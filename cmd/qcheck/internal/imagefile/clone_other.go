//go:build !linux

package imagefile

import (
	"errors"
	"os"
)

// CloneTo is not to be had here.
func (f *File) CloneTo(*os.File) error { return errors.ErrUnsupported }
