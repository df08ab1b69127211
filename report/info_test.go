package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"iter"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

func header() qcow2.Header {
	return qcow2.Header{
		Version: 3, ClusterBits: 16, Size: 10 << 30, L1Size: 20, L1TableOffset: 0x30000,
		RefcountTableOffset: 0x10000, RefcountTableClusters: 1, RefcountOrder: 4, HeaderLength: 112,
	}
}

func imageInfo(t *testing.T, h qcow2.Header, exts []byte, backing string) *Info {
	t.Helper()
	head := append(h.Encode(), exts...)
	if backing != "" {
		h.BackingFileOffset, h.BackingFileSize = qcow2.HostOffset(len(head)), uint32(len(backing))
		head = append(append(h.Encode(), exts...), backing...)
	}
	img, err := qcow2.Open(bytes.NewReader(head), int64(len(head)))
	require.NoError(t, err)
	return NewInfo("disk.qcow2", img, corrupt())
}

func TestInfo(t *testing.T) {
	full := header()
	full.IncompatibleFeatures = qcow2.IncompatDirty | qcow2.IncompatDataFile | qcow2.IncompatExtendedL2 | 1<<17
	full.CompatibleFeatures = qcow2.CompatLazyRefcounts | 1<<5
	full.AutoclearFeatures = qcow2.AutoclearBitmaps | qcow2.AutoclearRawData
	full.CryptMethod = qcow2.CryptLUKS
	exts := bytes.Join([][]byte{
		qcow2.EncodeExtension(qcow2.ExtBackingFormat, []byte("raw\x1b[2J")),
		qcow2.EncodeExtension(qcow2.ExtFeatureNames, qcow2.EncodeFeatureNames([]qcow2.FeatureName{
			{Type: qcow2.FeatureIncompatible, Bit: 17, Name: "warp \x1b[1m"}, {Type: qcow2.FeatureIncompatible, Bit: 0, Name: "not the dirty bit"}})),
		qcow2.EncodeExtension(qcow2.ExtDataFile, []byte("data.raw")),
		qcow2.EncodeExtension(qcow2.ExtCrypto, qcow2.CryptoExtension{Offset: 0x50000, Length: 1052672}.Encode()),
		qcow2.EncodeExtension(0x12345678, []byte("mystery")),
		qcow2.EncodeExtension(qcow2.ExtEnd, nil),
	}, nil)
	odd := header()
	odd.ClusterBits, odd.RefcountOrder, odd.Version, odd.CryptMethod = 63, 9, 7, 5
	old := qcow2.Header{Version: 2, ClusterBits: 12, Size: 1000, L1Size: 1, L1TableOffset: 0x3000, RefcountTableOffset: 0x1000, RefcountTableClusters: 1}
	for name, i := range map[string]*Info{
		"plain": imageInfo(t, header(), nil, ""),
		"full":  imageInfo(t, full, exts, "base\x1b[2J.raw"),
		"odd":   imageInfo(t, odd, nil, ""),
		"v2":    imageInfo(t, old, nil, "base.qcow2"),
	} {
		if name != "full" {
			i.Snapshots, i.Bitmaps, i.QEMUOpen = nil, nil, check.QEMUOpen{ReadOnly: check.OpenOK, ReadWrite: check.OpenOK}
		}
		t.Run(name, func(t *testing.T) {
			var human, js bytes.Buffer
			require.NoError(t, i.Human(&human, Options{}))
			require.NoError(t, i.JSON(&js))
			harmless(t, human.Bytes())
			harmless(t, js.Bytes())
			golden(t, "info-human-"+name, human.Bytes())
			golden(t, "info-json-"+name, js.Bytes())
		})
	}
}

func extents(n int, fail error) iter.Seq2[qcow2.DirtyExtent, error] {
	return func(yield func(qcow2.DirtyExtent, error) bool) {
		for i := range n {
			if !yield(qcow2.DirtyExtent{Start: qcow2.GuestOffset(i) << 20, Length: 65536}, nil) {
				return
			}
		}
		if fail != nil {
			yield(qcow2.DirtyExtent{}, fail)
		}
	}
}

func TestBitmaps(t *testing.T) {
	bs := corrupt().Bitmaps
	bs = append(bs, check.BitmapInfo{Name: "nightly", GranularityBits: 31, Type: 1, State: check.BitmapDisabled,
		EntryOffset: 0x60040, TableOffset: 0x90000, TableSize: 1})
	good := BitmapDetail{Name: "disk.qcow2", VirtualSize: 10 << 30, Bitmap: bs[2], Content: true, DirtyBytes: 3 << 16,
		Digest: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", Extents: extents(3, nil)}
	many, none, bad := good, good, good
	many.Extents, many.DirtyBytes = extents(25, nil), 25<<16
	none.Extents, none.DirtyBytes = extents(0, nil), 0
	bad.Bitmap, bad.Content = bs[0], false
	for name, d := range map[string]*BitmapDetail{"good": &good, "many": &many, "none": &none, "unusable": &bad} {
		t.Run(name, func(t *testing.T) {
			var human, js bytes.Buffer
			require.NoError(t, d.Human(&human, Options{}))
			require.NoError(t, d.JSON(&js))
			golden(t, "bitmap-human-"+name, human.Bytes())
			golden(t, "bitmap-json-"+name, js.Bytes())
			assert.True(t, json.Valid(js.Bytes()))
		})
	}
	for name, l := range map[string]*BitmapList{"list": {Name: "disk.qcow2", VirtualSize: 10 << 30, Bitmaps: bs}, "empty-list": {Name: "disk.qcow2"}} {
		t.Run(name, func(t *testing.T) {
			var human, js bytes.Buffer
			require.NoError(t, l.Human(&human, Options{}))
			require.NoError(t, l.JSON(&js))
			golden(t, "bitmap-human-"+name, human.Bytes())
			golden(t, "bitmap-json-"+name, js.Bytes())
		})
	}
}

// A bitmap whose data cannot be read to its end is an error, not a shorter list.
func TestBitmapReadError(t *testing.T) {
	broken := errors.New("cannot read")
	d := BitmapDetail{Content: true, Extents: extents(2, broken)}
	assert.ErrorIs(t, d.JSON(&bytes.Buffer{}), broken)
	assert.ErrorIs(t, d.Human(&bytes.Buffer{}, Options{Verbose: true}), broken)
}

// Every row of the catalogue can be explained, and its paragraphs fit.
func TestExplain(t *testing.T) {
	for _, r := range problem.Catalog() {
		var human, js bytes.Buffer
		require.NoError(t, Explain(&human, r, Options{Width: 70}))
		for line := range bytes.Lines(human.Bytes()) {
			assert.LessOrEqual(t, len([]rune(string(line))), 71, "%s", line)
		}
		require.NoError(t, ExplainJSON(&js, r))
		var back struct{ Code problem.Code }
		require.NoError(t, json.Unmarshal(js.Bytes(), &back))
		assert.Equal(t, r.Code, back.Code)
	}
	r := problem.Rule{Code: "XYZ001", Severity: problem.Corruption, Structure: problem.StructL1Table, Repair: problem.RepairLossy,
		Title: "a title that says what is wrong", Spec: "Some section",
		Why: "The first sentence says what it means, at some length, so that it must be broken. The second one says more.",
		Do:  "Restore it from a backup."}
	var human, js bytes.Buffer
	require.NoError(t, Explain(&human, r, Options{}))
	require.NoError(t, ExplainJSON(&js, r))
	golden(t, "explain-human", human.Bytes())
	golden(t, "explain-json", js.Bytes())
}
