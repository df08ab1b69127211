//go:build !linux

package qmp

import (
	"fmt"
	"path/filepath"
)

// Path gives the path of a file of QEMU's as this process can open it. Where relative ones
// begin, this system does not tell.
func (c *Client) Path(file string) (string, error) {
	if filepath.IsAbs(file) {
		return file, nil
	}
	return "", fmt.Errorf("%s is relative to the folder that QEMU was started in, which is not known here", file)
}
