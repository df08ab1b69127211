package mapview_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/filemap"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
	"github.com/qcheck/qcheck/report/mapview"
)

// worst is a map in which no cell is like its neighbour, of an image of 1 TiB with as many
// snapshots and bitmaps as are shown.
func worst() *filemap.Map {
	rng := rand.New(rand.NewPCG(1, 2))
	const cells, guest, disks = 16384, 2048, 24
	m := &filemap.Map{FileSize: 1 << 40, ClusterSize: 1 << 16, PerCell: 1024, DiskSize: 1 << 40, GuestBytes: 1 << 29,
		Result: &check.Result{Verdict: check.VerdictCorrupt}}
	for range cells {
		var c filemap.Cell
		for k := range c {
			if rng.IntN(3) == 0 {
				c[k] = uint64(rng.IntN(400))
			}
		}
		m.Cells = append(m.Cells, c)
	}
	disk := func() (d filemap.Disk) {
		for range guest {
			d.Cells = append(d.Cells, [filemap.GuestKinds]uint8{uint8(rng.IntN(256)), uint8(rng.IntN(256)), uint8(rng.IntN(256)), uint8(rng.IntN(256))})
		}
		return d
	}
	m.Active = disk()
	for range disks {
		m.Snapshots = append(m.Snapshots, disk())
		b := filemap.Bitmap{}
		for range guest {
			b.Dirty = append(b.Dirty, uint8(rng.IntN(256)))
		}
		m.Bitmaps = append(m.Bitmaps, b)
	}
	for i := range 2000 {
		m.Result.Findings = append(m.Result.Findings, problem.Finding{Code: problem.L1PastEnd, Severity: problem.Corruption, Message: problem.Say("%s", strings.Repeat("long ", 40)),
			Extent: qcow2.Extent{Offset: qcow2.HostOffset(i << 20), Length: 8}, Count: 1})
	}
	return m
}

func TestPageSize(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	require.NoError(t, mapview.HTML(&b, "disk.qcow2", worst()))
	t.Logf("%d bytes", b.Len())
	assert.Less(t, b.Len(), 2_000_000)
	assert.Contains(t, b.String(), `"findings-omitted":1500`)
}

// TestHostileNames holds that no text from an image, nor its name, becomes a part of the page.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	const evil = `</script><script>alert(1)</script>{{js}}`
	m := &filemap.Map{FileSize: 4096, ClusterSize: 512, PerCell: 1, Cells: make([]filemap.Cell, 8), DiskSize: 512, GuestBytes: 512,
		Snapshots: []filemap.Disk{{ID: "1", Name: evil}}, Bitmaps: []filemap.Bitmap{{Info: check.BitmapInfo{Name: evil}}},
		Result: &check.Result{Findings: []problem.Finding{{Code: problem.BitmapNameDangerous, Message: problem.Say("%s", evil+"\x1b[31m\u202e"), Count: 1}}}}
	var b bytes.Buffer
	require.NoError(t, mapview.HTML(&b, evil, m))
	assert.Equal(t, 2, strings.Count(b.String(), "</script>"), "its own")
	assert.NotContains(t, b.String(), "<script>alert")
	assert.NotContains(t, b.String(), "\x1b")
	assert.NotContains(t, b.String(), "\u202e")
	for _, what := range []string{"http://", "https://", "src=", "@import", "url("} {
		assert.NotContains(t, b.String(), what, "nothing is loaded")
	}
	b.Reset()
	require.NoError(t, mapview.Text(&b, evil+"\x1b", m))
	assert.NotContains(t, b.String(), "\x1b")
	b.Reset()
	require.NoError(t, mapview.JSON(&b, evil, m))
	assert.True(t, json.Valid(b.Bytes()))
}
