package check

import "github.com/qcheck/qcheck/qcow2"

func (c *run) checkDataFile() error     { return nil }
func (c *run) checkBitmaps() error      { return nil }
func (c *run) predictOpen() error       { return nil }
func (c *run) checkRequirements() error { return nil }

func (c *run) checkDataFileSize() {}

type l1slot struct {
	l1    uint32
	index uint32
	entry qcow2.L1Entry
}
