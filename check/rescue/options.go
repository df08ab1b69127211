package rescue

import (
	"errors"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/qcow2"
)

// Options says what is known of the image, and what may be done. The zero value goes by
// the file alone, and takes nothing that is not proven.
type Options struct {
	// ClusterSize is the size of a cluster in bytes. The default, 0, is to find out.
	ClusterSize uint64
	// VirtualSize is the size of the disk in bytes. The default, 0, is to find out.
	VirtualSize uint64
	// BackingFile and BackingFormat are what the header is to say of the backing file.
	// The default is what is left of the header.
	BackingFile, BackingFormat string
	// DataFile is the name of the external data file. The default is none, or what is
	// left of the header.
	DataFile string
	// Sibling is an image whose header says what this one's said: sizes, features, other
	// files. Where its tables lie is not taken. The default is nil.
	Sibling *qcow2.Image
	// AcceptGuesses takes what is likely, not proven. The default is false.
	AcceptGuesses bool
	// Keep keeps the refcounts of clusters that nothing refers to: the file itself is to
	// be changed, and somebody may yet find out what they are. The default is false.
	Keep bool
	// Device tells that the image is on a block device, which cannot grow. The default is
	// false.
	Device bool
	// Jobs is how many goroutines the checks read with. The default is GOMAXPROCS.
	Jobs int
	// MemoryLimit bounds the reference counts of the checks, in bytes. The default is no
	// limit but what the file justifies.
	MemoryLimit int64
	// Progress is told how far it has come. The default is nil.
	Progress func(check.Progress)
}

// Errors of [Make].
var (
	// ErrNothing means that there is nothing of a qcow2 image in the file.
	ErrNothing = errors.New("nothing of a qcow2 image was found")
	// ErrNoMapping means that nothing is left that says where the disk's data is.
	ErrNoMapping = errors.New("no L1 table was found, and nothing proves where the L2 tables belong")
)
