package corpus

import (
	"fmt"

	"github.com/qcheck/qcheck/qcow2"
)

// layout tells where everything stands in a built image. It is what the builder
// did, not what the bytes say, so that it stays right when they are damaged.
type layout struct {
	g           qcow2.Geometry
	header      qcow2.Header
	exts        []extension
	extEnd      qcow2.Extent // of the mark at the extensions' end
	backingName qcow2.Extent
	crypto      qcow2.Extent
	refTable    qcow2.Extent
	blocks      []qcow2.HostCluster
	l1          qcow2.Extent
	l2          []*l2table
	snapTable   qcow2.Extent
	snaps       []*snapshot
	dir         qcow2.Extent
	bitmaps     []*bitmap
	reserved    map[string]qcow2.Extent
}

type extension struct {
	typ  qcow2.ExtensionType
	at   qcow2.Extent // head and padding included
	size uint64       // of the data, in bytes
}

// Place names bytes of an image by the structure that they belong to, such as
// "L2 entry of guest offset 0x10000". It is found in a built image by [Image.Find].
type Place struct {
	name string
	find func(*Image) (qcow2.Extent, error)
}

// String names the place.
func (p Place) String() string { return p.name }

// Find tells where a place is.
func (img *Image) Find(p Place) (qcow2.Extent, error) {
	if p.find == nil {
		return qcow2.Extent{}, fmt.Errorf("no place")
	}
	x, err := p.find(img)
	if err != nil {
		return x, fmt.Errorf("%s: %w", p.name, err)
	}
	return x, nil
}

// At gives the bytes of the place, from byte off on.
func (p Place) At(off, length uint64) Place {
	return Place{fmt.Sprintf("%s, bytes %d to %d", p.name, off, off+length-1), func(img *Image) (qcow2.Extent, error) {
		x, err := p.find(img)
		return qcow2.Extent{Offset: x.Offset + qcow2.HostOffset(off), Length: length}, err
	}}
}

// To gives the bytes from one place's start to another's end.
func (p Place) To(q Place) Place {
	return Place{fmt.Sprintf("%s to %s", p.name, q.name), func(img *Image) (qcow2.Extent, error) {
		x, err := p.find(img)
		if err != nil {
			return x, err
		}
		y, err := q.find(img)
		return qcow2.Extent{Offset: x.Offset, Length: uint64(y.Offset-x.Offset) + y.Length}, err
	}}
}

func place(x func(*Image) (qcow2.Extent, error), format string, args ...any) Place {
	return Place{fmt.Sprintf(format, args...), x}
}

// known makes a finder of what is there in every image.
func known(f func(*Image) qcow2.Extent) func(*Image) (qcow2.Extent, error) {
	return func(img *Image) (qcow2.Extent, error) {
		x := f(img)
		if x.Length == 0 {
			return x, fmt.Errorf("the image has none")
		}
		return x, nil
	}
}

// Bytes is a range of bytes of the file.
func Bytes(off qcow2.HostOffset, length uint64) Place {
	return place(func(*Image) (qcow2.Extent, error) { return qcow2.Extent{Offset: off, Length: length}, nil },
		"bytes %#x to %#x", uint64(off), uint64(off)+length-1)
}

// End is the n bytes behind the end of the file.
func End(n uint64) Place {
	return place(func(img *Image) (qcow2.Extent, error) {
		return qcow2.Extent{Offset: qcow2.HostOffset(img.Size()), Length: n}, nil
	}, "the end of the file")
}

// headerFields tells the fields' names and lengths in bytes.
var headerFields = map[int]struct {
	name   string
	length uint64
}{
	qcow2.FieldMagic:                 {"magic", 4},
	qcow2.FieldVersion:               {"version", 4},
	qcow2.FieldBackingFileOffset:     {"backing_file_offset", 8},
	qcow2.FieldBackingFileSize:       {"backing_file_size", 4},
	qcow2.FieldClusterBits:           {"cluster_bits", 4},
	qcow2.FieldSize:                  {"size", 8},
	qcow2.FieldCryptMethod:           {"crypt_method", 4},
	qcow2.FieldL1Size:                {"l1_size", 4},
	qcow2.FieldL1TableOffset:         {"l1_table_offset", 8},
	qcow2.FieldRefcountTableOffset:   {"refcount_table_offset", 8},
	qcow2.FieldRefcountTableClusters: {"refcount_table_clusters", 4},
	qcow2.FieldNbSnapshots:           {"nb_snapshots", 4},
	qcow2.FieldSnapshotsOffset:       {"snapshots_offset", 8},
	qcow2.FieldIncompatibleFeatures:  {"incompatible_features", 8},
	qcow2.FieldCompatibleFeatures:    {"compatible_features", 8},
	qcow2.FieldAutoclearFeatures:     {"autoclear_features", 8},
	qcow2.FieldRefcountOrder:         {"refcount_order", 4},
	qcow2.FieldHeaderLength:          {"header_length", 4},
	qcow2.FieldCompressionType:       {"compression_type", 1},
}

// HeaderField is a field of the header, by its offset: [qcow2.FieldSize].
func HeaderField(field int) Place {
	f := headerFields[field]
	return place(known(func(*Image) qcow2.Extent {
		return qcow2.Extent{Offset: qcow2.HostOffset(field), Length: f.length}
	}), "header field %s", f.name)
}

// Header is the whole header.
func Header() Place {
	return place(known(func(img *Image) qcow2.Extent {
		return qcow2.Extent{Length: uint64(img.header.HeaderLength)}
	}), "the header")
}

// HeaderCluster is the first cluster.
func HeaderCluster() Place {
	return place(known(func(img *Image) qcow2.Extent { return qcow2.Extent{Length: img.g.ClusterSize()} }),
		"the header's cluster")
}

// Extension is a whole header extension, by its index, with head and padding.
func Extension(i int) Place {
	return place(func(img *Image) (qcow2.Extent, error) {
		if i >= len(img.exts) {
			return qcow2.Extent{}, fmt.Errorf("there are %d", len(img.exts))
		}
		return img.exts[i].at, nil
	}, "header extension %d", i)
}

// ExtensionOf is the first header extension of a type, with head and padding.
func ExtensionOf(t qcow2.ExtensionType) Place {
	return place(known(func(img *Image) qcow2.Extent {
		for _, e := range img.exts {
			if e.typ == t {
				return e.at
			}
		}
		return qcow2.Extent{}
	}), "header extension %#x", uint32(t))
}

// ExtensionLength is the length field of the first header extension of a type.
func ExtensionLength(t qcow2.ExtensionType) Place {
	p := ExtensionOf(t).At(4, 4)
	p.name = fmt.Sprintf("length of header extension %#x", uint32(t))
	return p
}

// ExtensionData is bytes of the data of the first header extension of a type.
func ExtensionData(t qcow2.ExtensionType, off, length uint64) Place {
	p := ExtensionOf(t).At(8+off, length)
	p.name = fmt.Sprintf("data of header extension %#x, bytes %d to %d", uint32(t), off, off+length-1)
	return p
}

// ExtensionsEnd is the mark at the end of the header extensions.
func ExtensionsEnd() Place {
	return place(known(func(img *Image) qcow2.Extent { return img.extEnd }), "the end of the header extensions")
}

// BackingName is the backing file's name.
func BackingName() Place {
	return place(known(func(img *Image) qcow2.Extent { return img.backingName }), "the backing file's name")
}

// CryptoHeader is the LUKS header.
func CryptoHeader() Place {
	return place(known(func(img *Image) qcow2.Extent { return img.crypto }), "the encryption header")
}

// Reserved is the clusters of a [Reserve].
func Reserved(name string) Place {
	return place(known(func(img *Image) qcow2.Extent { return img.reserved[name] }), "the clusters reserved as %s", name)
}
