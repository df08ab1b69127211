package qcow2_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log"

	"github.com/qcheck/qcheck/qcow2"
)

// exampleImage makes the bytes of an image of four clusters of guest data, of
// which the first is stored and the second is zero.
func exampleImage() []byte {
	const cs = 65536
	h := qcow2.Header{
		Version: 3, ClusterBits: 16, Size: 4 * cs,
		L1Size: 1, L1TableOffset: 1 * cs,
		RefcountOrder: 4, HeaderLength: qcow2.HeaderLengthCompression,
	}
	b := make([]byte, 4*cs)
	copy(b, h.Encode())
	copy(b[1*cs:], words(uint64(qcow2.NewL1Entry(2*cs, true))))
	copy(b[2*cs:], words(uint64(qcow2.NewL2Entry(3*cs, true, false)), uint64(qcow2.NewL2Entry(0, false, true))))
	copy(b[3*cs:], "hello, guest")
	return b
}

func Example() {
	file := exampleImage()
	img, err := qcow2.Open(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		log.Fatal(err)
	}
	disk, err := img.ActiveDisk(qcow2.DiskOptions{})
	if err != nil {
		log.Fatal(err)
	}
	data := make([]byte, 12)
	if _, err := disk.ReadAt(data, 0); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%q\n", data)
	for x, err := range disk.Map(0, qcow2.GuestOffset(disk.Size())) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%#x bytes at %v: %v\n", x.Length, x.Start, x.Kind)
	}
	// Output:
	// "hello, guest"
	// 0x10000 bytes at 0x0: data
	// 0x10000 bytes at 0x10000: zero
	// 0x20000 bytes at 0x20000: unallocated
}

func ExampleImage_BitmapByName() {
	file := exampleImage()
	// A directory with one bitmap, whose table says: all dirty.
	const directory, table = 4 * 65536, 5 * 65536
	entry := qcow2.BitmapEntry{
		TableOffset: table, TableSize: 1, Flags: qcow2.BitmapAuto,
		Type: qcow2.BitmapDirtyTracking, GranularityBits: 16, Name: []byte("backup-7"),
	}
	file = append(file, make([]byte, 2*65536)...)
	size := copy(file[directory:], entry.Encode())
	copy(file[table:], words(uint64(qcow2.AllOnesEntry)))
	ext := qcow2.BitmapsExtension{NbBitmaps: 1, DirectorySize: uint64(size), DirectoryOffset: directory}
	binary.BigEndian.PutUint64(file[qcow2.FieldAutoclearFeatures:], uint64(qcow2.AutoclearBitmaps))
	copy(file[qcow2.HeaderLengthCompression:], qcow2.EncodeExtension(qcow2.ExtBitmaps, ext.Encode()))

	img, err := qcow2.Open(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		log.Fatal(err)
	}
	bitmap, err := img.BitmapByName("backup-7")
	if err != nil {
		log.Fatal(err) // a full backup is needed
	}
	for x, err := range bitmap.Dirty() {
		if err != nil {
			log.Fatal(err) // or take the range for dirty
		}
		fmt.Printf("copy %#x bytes from %v on\n", x.Length, x.Start)
	}

	// Software that knows no bitmaps writes to the image, and clears the autoclear
	// features that it does not know: what it wrote is in no bitmap.
	binary.BigEndian.PutUint64(file[qcow2.FieldAutoclearFeatures:], 0)
	if img, err = qcow2.Open(bytes.NewReader(file), int64(len(file))); err != nil {
		log.Fatal(err)
	}
	_, err = img.BitmapByName("backup-7")
	fmt.Println(err)
	// Output:
	// copy 0x40000 bytes from 0x0 on
	// bitmap "backup-7" must not be used: the image was written to by software that does not know bitmaps
}
