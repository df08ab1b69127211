package check

import (
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// The plaintext pass tests whether the data of an image that is said to be encrypted by the
// old method (AES), which has no header that could be looked at, is encrypted (CRY003). One
// flipped bit of crypt_method makes such an image of any.
//
// It relies on the L2 tables of the mapping pass, and leaves nothing behind.

const (
	// plaintextClusters bounds the clusters that are looked at, plaintextTables the tables
	// in which they are looked for.
	plaintextClusters = 64
	plaintextTables   = 64
	// plaintextValues is how many different bytes a sector has at most to be taken for plain
	// text. One of 512 random bytes has about 221 of 256; that it has so few is as likely as
	// to guess the key.
	plaintextValues = 96
)

// checkPlaintext runs the pass.
func (c *run) checkPlaintext() error {
	if c.h.CryptMethod != qcow2.CryptAES || !c.l2FormatKnown() || c.h.HasDataFile() {
		return nil
	}
	s := newScanner(c)
	looked := 0
	for idx := range min(len(c.tables), plaintextTables) {
		ts, ok := s.load(uint32(idx))
		if !ok || !ts.t.active() {
			continue
		}
		for i := range ts.entries {
			j, named := s.again(ts, i)
			if !named || j.compressed || j.faults != 0 || c.counts.Get(j.first) != 1 {
				continue
			}
			if looked++; looked > plaintextClusters {
				return nil
			}
			sector, found := c.plainSector(c.g.HostOffset(j.first))
			if found {
				c.report(problem.Finding{
					Code: problem.NotEncrypted, Extent: at(qcow2.FieldCryptMethod, 4), Cluster: ptr(j.first), GuestOffset: ptr(c.entryGuest(ts.t, i)),
					Value: problem.Words("1"), Expected: problem.Words("0"),
					Message: problem.Say("crypt_method is 1 (AES), but the sector at %v is not encrypted", sector),
				})
				return nil
			}
		}
		if err := c.ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// plainSector looks for a sector of a cluster that is not encrypted. Sectors of zeros are no
// proof: nothing was written to them yet.
func (c *run) plainSector(cluster qcow2.HostOffset) (sector qcow2.HostOffset, found bool) {
	raw := make([]byte, min(c.g.ClusterSize(), 64<<10))
	if c.img.ReadAt(raw, cluster) != nil {
		return 0, false
	}
	for at := 0; at+qcow2.SectorSize <= len(raw); at += qcow2.SectorSize {
		var seen [256]bool
		values := 0
		for _, b := range raw[at : at+qcow2.SectorSize] {
			if !seen[b] {
				seen[b] = true
				values++
			}
		}
		if values <= plaintextValues && !(values == 1 && seen[0]) {
			return cluster + qcow2.HostOffset(at), true
		}
	}
	return 0, false
}
