package proof

import (
	"bytes"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// mayChange are the incompatible features that say nothing about how guest data is
// read. The compression's bit may where it contradicts the type.
const mayChange = qcow2.IncompatDirty | qcow2.IncompatCorrupt

// header holds that the header says of the disk what it said before.
func (p *prover) header() error {
	a, b := &p.was.Header, &p.is.Header
	odd := a.IncompatibleFeatures.Has(qcow2.IncompatCompression) != (a.CompressionType != qcow2.CompressionZlib)
	may := mayChange
	if odd {
		may |= qcow2.IncompatCompression
	}
	switch {
	case a.Version != b.Version:
		return refuse(qcow2.FieldVersion, "the version changes")
	case a.ClusterBits != b.ClusterBits:
		return refuse(qcow2.FieldClusterBits, "the cluster size changes")
	case a.Size != b.Size:
		return refuse(qcow2.FieldSize, "the virtual size changes")
	case a.CryptMethod != b.CryptMethod:
		return refuse(qcow2.FieldCryptMethod, "the encryption changes")
	case a.RefcountOrder != b.RefcountOrder:
		return refuse(qcow2.FieldRefcountOrder, "the width of refcounts changes")
	case (a.IncompatibleFeatures^b.IncompatibleFeatures)&^may != 0:
		return refuse(qcow2.FieldIncompatibleFeatures, "features change on which it depends what the guest reads")
	case !odd && a.CompressionType != b.CompressionType:
		return refuse(qcow2.FieldCompressionType, "the compression changes")
	case a.HasDataFile() && (a.AutoclearFeatures^b.AutoclearFeatures)&qcow2.AutoclearRawData != 0:
		return refuse(qcow2.FieldAutoclearFeatures, "what is said of the data file changes")
	}
	if err := p.backing(); err != nil {
		return err
	}
	return p.extensions()
}

func (p *prover) backing() error {
	a, b := &p.was.Header, &p.is.Header
	name, ok := p.was.BackingFileName()
	then, _ := p.is.BackingFileName()
	same := a.BackingFileOffset == b.BackingFileOffset && a.BackingFileSize == b.BackingFileSize && bytes.Equal(name, then)
	moved := ok && b.HasBackingFile() && bytes.Equal(name, then)
	switch {
	case p.plan.Backing && same && a.HasBackingFile():
		return refuse(qcow2.FieldBackingFileOffset, "the backing file is declared lost and is kept")
	case same, moved, p.plan.Backing:
		return nil
	}
	return refuse(qcow2.FieldBackingFileOffset, "the backing file changes")
}

// extensions holds that those on which depends what the guest reads stay, and those
// that nobody knows.
func (p *prover) extensions() error {
	h := &p.was.Header
	needed := func(img *qcow2.Image) (all [][]byte) {
		for _, e := range img.Extensions {
			keep := false
			switch e.Type {
			case qcow2.ExtBackingFormat:
				keep = h.HasBackingFile() && !p.plan.Backing
			case qcow2.ExtDataFile:
				keep = h.HasDataFile()
			case qcow2.ExtCrypto:
				keep = h.CryptMethod == qcow2.CryptLUKS
			case qcow2.ExtFeatureNames, qcow2.ExtBitmaps:
			default:
				// Where the length of one is wrong, what follows is none.
				keep = !p.before.Result.Has(problem.ExtensionLength)
				if d := p.plan.Directory; d.DirectoryOffset != 0 && bytes.Equal(e.Data, d.Encode()) {
					keep = false // a bitmaps extension whose type is damaged
				}
			}
			if e.Overruns() {
				e.Data = nil // how much of it there is depends on what follows
			}
			if keep {
				all = append(all, qcow2.EncodeExtension(e.Type, e.Data))
			}
		}
		return all
	}
	a, b := needed(p.was), needed(p.is)
	for i := range a {
		if i >= len(b) || !bytes.Equal(a[i], b[i]) {
			return refuse(h.ExtensionArea(p.g).Offset, "a header extension changes that has to stay")
		}
	}
	if len(b) > len(a) {
		return refuse(h.ExtensionArea(p.g).Offset, "a header extension appears")
	}
	return nil
}
