package check

import "github.com/qcheck/qcheck/qcow2"

func (c *run) checkHeader() error       { return nil }
func (c *run) checkExtensions() error   { return nil }
func (c *run) checkCrypto() error       { return nil }
func (c *run) checkDataFile() error     { return nil }
func (c *run) checkBitmaps() error      { return nil }
func (c *run) checkRefcounts() error    { return nil }
func (c *run) predictOpen() error       { return nil }
func (c *run) checkRequirements() error { return nil }

func (c *run) l1Usable() bool       { return true }
func (c *run) refTableUsable() bool { return true }
func (c *run) checkDataFileSize()   {}
func (c *run) snapshotTableUsable() bool {
	return c.g.Aligned(c.h.SnapshotsOffset) && c.h.NbSnapshots <= qcow2.MaxSnapshots &&
		!c.g.PastEnd(c.h.SnapshotsOffset, 0, c.img.Size())
}
