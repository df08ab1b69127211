package repair

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
	"time"

	"github.com/qcheck/qcheck/qcow2"
)

// FileID tells one file of a machine from all others, whatever its names are: the
// numbers of its device and inode, or a block device's own number and inode 0. The
// zero value is a file that is not known. Device numbers can change when the machine
// starts again.
type FileID struct {
	Device, Inode uint64
}

// Identifier is a [File] that knows which file it is. A journal that was made for one
// knows it too.
type Identifier interface {
	FileID() FileID
}

func fileID(f File) FileID {
	if i, ok := f.(Identifier); ok {
		return i.FileID()
	}
	return FileID{}
}

// identity is the first record of a journal: which image it was made for.
type identity struct {
	id     FileID
	time   time.Time // of the repair
	size   int64     // of the image before it, in bytes
	sector [sha256.Size]byte
	digest [sha256.Size]byte // of the record itself, which the head repeats
}

const (
	identitySize   = 132
	identitySumEnd = identitySize - crc32.Size
)

// identityOf gives the first record for an image whose first sector is known.
func identityOf(f File, l *layout, now time.Time) identity {
	return identity{id: fileID(f), time: now, size: l.plan.OldSize, sector: sha256.Sum256(l.before)}
}

// encode gives the record as it is written, and notes its digest.
func (i *identity) encode() []byte {
	b := make([]byte, identitySize)
	copy(b, journalMagic)
	le := binary.LittleEndian
	le.PutUint32(b[8:], journalVersion)
	le.PutUint64(b[16:], uint64(i.time.UnixNano()))
	le.PutUint64(b[24:], uint64(i.size))
	le.PutUint64(b[32:], i.id.Device)
	le.PutUint64(b[40:], i.id.Inode)
	copy(b[64:], i.sector[:])
	le.PutUint32(b[identitySumEnd:], crc32.Checksum(b[:identitySumEnd], crcTable))
	i.digest = sha256.Sum256(b)
	return b
}

// decode reads the record. A file that does not begin with a whole one is never taken
// for a journal of ours, whatever else is in it: all zeros is what a new disk holds.
func (i *identity) decode(b []byte) *DamagedError {
	le := binary.LittleEndian
	version := le.Uint32(b[8:])
	switch {
	case string(b[:len(journalMagic)]) != journalMagic:
		return &DamagedError{Kind: DamagedForeign}
	case version != journalVersion && version != 0:
		return &DamagedError{Kind: DamagedVersion, Version: version}
	case le.Uint32(b[identitySumEnd:]) != crc32.Checksum(b[:identitySumEnd], crcTable) || version == 0 || int64(le.Uint64(b[24:])) < 0:
		return &DamagedError{Kind: DamagedContent}
	}
	i.time = time.Unix(0, int64(le.Uint64(b[16:])))
	i.size = int64(le.Uint64(b[24:]))
	i.id = FileID{Device: le.Uint64(b[32:]), Inode: le.Uint64(b[40:])}
	i.sector = [sha256.Size]byte(b[64:])
	i.digest = sha256.Sum256(b[:identitySize])
	return nil
}

// matches tells whether an image is the one that the journal was made for: the same file.
// Where the device has another number than it had, or nobody knows which file it is, it
// also has to look as it did: it has the length that it had before the repair or was to
// have after it, and a first sector that the repair can have left there.
func (j *journal) matches(f File) (bool, error) {
	is, was := fileID(f), j.identity.id
	switch {
	case is == FileID{}, was == FileID{}, is != was && is.Inode == was.Inode:
		return j.looksAlike(f)
	}
	return is == was, nil
}

// mustMatch fails with a [*DamagedError] for another image than the journal's.
func (j *journal) mustMatch(f File) error {
	ours, err := j.matches(f)
	if err == nil && !ours {
		err = &DamagedError{Kind: DamagedOther}
	}
	return err
}

func (j *journal) looksAlike(f File) (bool, error) {
	size, err := f.CurrentSize()
	if err != nil {
		return false, err
	}
	sector := make([]byte, min(j.identity.size, qcow2.SectorSize))
	if err := readZeros(f, sector, 0); err != nil {
		return false, err
	}
	if size == j.identity.size && sha256.Sum256(sector) == j.identity.sector {
		return true, nil
	}
	if j.before == nil || size != j.oldSize && size != j.newSize {
		return false, nil
	}
	is := &agreement{sector: sector}
	j.compareSector(is)
	return is.between.fits(), nil
}
