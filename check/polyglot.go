package check

import (
	"bytes"
	"encoding/binary"

	"github.com/qcheck/qcheck/qcow2"
)

// A file can be more than one thing at once: what makes it a qcow2 image stands in its first
// bytes, and other formats are told by other places. Who guesses takes it for one, the next
// program for the other, and what was judged is not what is used.

// isoDescriptors are where a volume descriptor of ISO 9660 or UDF can stand.
var isoDescriptors = []int64{0x8001, 0x8801, 0x9001}

// otherFormats names what else the file looks like.
func (c *run) otherFormats() (formats []string) {
	head := make([]byte, 1024)
	if c.img.ReadAt(head, 0) != nil {
		return nil // which is a finding
	}
	switch {
	case string(head[512:520]) == "EFI PART":
		formats = append(formats, "a raw disk with a GPT")
	case partitioned(head[:512]):
		formats = append(formats, "a raw disk with an MBR")
	}
	for _, off := range isoDescriptors {
		id := make([]byte, 5)
		if c.img.ReadAt(id, qcow2.HostOffset(off)) == nil && (string(id) == "CD001" || string(id) == "BEA01" || string(id) == "NSR02" || string(id) == "NSR03") {
			formats = append(formats, "a CD or DVD image")
			break
		}
	}
	if size := c.img.Size(); size >= 512 {
		tail := make([]byte, 512)
		if c.img.ReadAt(tail, qcow2.HostOffset(size-512)) == nil {
			switch {
			case bytes.HasPrefix(tail, []byte("conectix")):
				formats = append(formats, "a VHD image")
			case bytes.HasPrefix(tail, []byte("koly")):
				formats = append(formats, "a DMG image")
			}
		}
	}
	return formats
}

// partitioned tells whether a sector is a boot sector with a partition: the signature at
// its end, and an entry that makes sense. The signature alone could be anything's.
func partitioned(sector []byte) bool {
	if sector[510] != 0x55 || sector[511] != 0xaa {
		return false
	}
	for e := sector[446:510]; len(e) > 0; e = e[16:] {
		if e[0]&0x7f == 0 && e[4] != 0 && binary.LittleEndian.Uint32(e[12:]) != 0 {
			return true
		}
	}
	return false
}
