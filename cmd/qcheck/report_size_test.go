package main

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// maxReport is how long a report may be, of whatever image.
const maxReport = 6 << 20

// snapshotsImage writes an image of so many snapshots whose names are of so many bytes,
// all of them this one; for NUL it is sparse. The L1 tables of every third lead nowhere.
func snapshotsImage(t *testing.T, snapshots, name int, char byte) string {
	t.Helper()
	const cluster, table = 1 << 16, 4 << 16
	be := binary.BigEndian
	head := make([]byte, 4*cluster)
	copy(head, "QFI\xfb")
	be.PutUint32(head[4:], 3)                  // version
	be.PutUint32(head[20:], 16)                // cluster_bits
	be.PutUint64(head[24:], 1<<20)             // size
	be.PutUint32(head[36:], 1)                 // l1_size
	be.PutUint64(head[40:], 3*cluster)         // l1_table_offset
	be.PutUint64(head[48:], cluster)           // refcount_table_offset
	be.PutUint32(head[56:], 1)                 // refcount_table_clusters
	be.PutUint32(head[60:], uint32(snapshots)) // nb_snapshots
	be.PutUint64(head[64:], table)             // snapshots_offset
	be.PutUint32(head[96:], 4)                 // refcount_order
	be.PutUint32(head[100:], 104)              // header_length
	path := filepath.Join(t.TempDir(), "snapshots.qcow2")
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteAt(head, 0)
	require.NoError(t, err)
	at := int64(table)
	for i := range snapshots {
		var entry [56]byte
		be.PutUint64(entry[:], 3*cluster)
		if i%3 == 0 {
			be.PutUint64(entry[:], 1<<50+1)
		}
		be.PutUint32(entry[8:], 1)             // l1_size
		be.PutUint16(entry[14:], uint16(name)) // name_size; the ID is empty
		be.PutUint32(entry[36:], 16)           // extra_data_size
		be.PutUint64(entry[48:], 1<<20)        // the disk's size
		_, err = f.WriteAt(entry[:], at)
		require.NoError(t, err)
		if char != 0 {
			_, err = f.WriteAt([]byte(strings.Repeat(string(rune(char)), name)), at+56)
			require.NoError(t, err)
		}
		at += (56 + int64(name) + 7) &^ 7
	}
	require.NoError(t, f.Truncate(at))
	return path
}

// bitmapsImage writes an image whose directory has so many bitmaps, all in use, with
// names of control characters.
func bitmapsImage(t *testing.T, bitmaps int) string {
	t.Helper()
	const cluster, directory, name = 1 << 16, 4 << 16, 1023
	be := binary.BigEndian
	head := make([]byte, 4*cluster)
	copy(head, "QFI\xfb")
	be.PutUint32(head[4:], 3)            // version
	be.PutUint32(head[20:], 16)          // cluster_bits
	be.PutUint64(head[24:], 1<<46)       // size
	be.PutUint32(head[36:], 1<<17)       // l1_size
	be.PutUint64(head[40:], 3*cluster)   // l1_table_offset
	be.PutUint64(head[48:], cluster)     // refcount_table_offset
	be.PutUint32(head[56:], 1)           // refcount_table_clusters
	be.PutUint64(head[88:], 1)           // autoclear_features
	be.PutUint32(head[96:], 4)           // refcount_order
	be.PutUint32(head[100:], 104)        // header_length
	be.PutUint32(head[104:], 0x23852875) // the bitmaps extension
	be.PutUint32(head[108:], 24)         //
	be.PutUint32(head[112:], uint32(bitmaps))
	const entry = 24 + name + 1
	be.PutUint64(head[120:], uint64(bitmaps)*entry)
	be.PutUint64(head[128:], directory)
	path := filepath.Join(t.TempDir(), "bitmaps.qcow2")
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteAt(head, 0)
	require.NoError(t, err)
	for i := range bitmaps {
		var b [entry]byte
		be.PutUint64(b[:], uint64(i+1)*cluster+1) // the table, which is not aligned
		be.PutUint32(b[8:], 2)                    // its entries
		be.PutUint32(b[12:], 1)                   // in use
		b[16], b[17] = 1, 16                      // type, granularity
		be.PutUint16(b[18:], name)
		for k := range name {
			b[24+k] = byte(1 + (i+k)%31)
		}
		be.PutUint32(b[24:], uint32(i)|0x01010101)
		_, err = f.WriteAt(b[:], int64(directory+i*entry))
		require.NoError(t, err)
	}
	return path
}

// No image makes a report of more than a few megabytes, in whatever format: what would
// take more is counted.
func TestReportIsBounded(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, path, list, one string }{
		{"sparse names", snapshotsImage(t, 1023, 65535, 0), "snapshots", ""},
		{"long names", snapshotsImage(t, 50, 60000, 'x'), "snapshots", ""},
		{"many snapshots", snapshotsImage(t, 8192, 8, 'x'), "snapshots", ""},
		{"many bitmaps", bitmapsImage(t, 1200), "bitmaps", ""},
	} {
		for _, args := range [][]string{
			{tt.path}, {"-v", tt.path}, {"--untrusted", "-o", "json", tt.path}, {"-o", "jsonl", tt.path},
			{"-n", "-v", tt.path}, {"-n", "--allow-data-loss", "-o", "json", tt.path},
			{"info", tt.path}, {"info", "-o", "json", tt.path}, {"bitmaps", tt.path}, {"bitmaps", "-o", "json", tt.path},
		} {
			code, out, errs := runIn(args...)
			t.Logf("%s %v: %d bytes, exit code %d", tt.name, args[:len(args)-1], len(out)+len(errs), code)
			assert.Less(t, len(out)+len(errs), maxReport, "%s %v", tt.name, args)
			assert.NotEmpty(t, out)
			for line := range strings.Lines(out + errs) {
				if len(args) == 1 && !assert.Less(t, len(line), 2000, "%s", line[:min(len(line), 200)]) {
					break
				}
			}
		}
		_, out, _ := runIn("-o", "json", tt.path)
		var object map[string]any
		require.NoError(t, json.Unmarshal([]byte(out), &object))
		assert.NotEmpty(t, object[tt.list])
		assert.NotZero(t, object[tt.list+"-omitted"])
	}
}
