package report

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

var exampleBlock = regexp.MustCompile("(?s)<!-- example: (\\w+) -->\n```json\n(.*?)```\n")

// The examples of docs/json.md are what is really written; -update puts them
// there.
func TestDocumentedExamples(t *testing.T) {
	res := result(check.VerdictCorrupt, corrupt().Findings[4:6]...)
	res.Bitmaps, res.QEMUOpen, res.Snapshots = corrupt().Bitmaps, corrupt().QEMUOpen, corrupt().Snapshots
	info := imageInfo(t, header(), qcow2.EncodeExtension(qcow2.ExtBackingFormat, []byte("raw")), "base.raw")
	info.Snapshots, info.Bitmaps, info.QEMUOpen = nil, res.Bitmaps[:1], res.QEMUOpen
	bitmap := BitmapDetail{Name: "disk.qcow2", VirtualSize: 10 << 30, Content: true, DirtyBytes: 2 << 16, Extents: extents(2, nil),
		Digest: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		Bitmap: check.BitmapInfo{Name: "nightly", GranularityBits: 16, Type: 1, Flags: qcow2.BitmapAuto, State: check.BitmapEnabled,
			EntryOffset: 0x60000, TableOffset: 0x70000, TableSize: 1}}
	var infoText, bitmapText bytes.Buffer
	require.NoError(t, info.JSON(&infoText))
	require.NoError(t, bitmap.JSON(&bitmapText))
	leaks := result(check.VerdictClean, problem.Finding{Code: problem.RefcountTooHigh, Message: problem.Say("cluster 104 at 0x680000: refcount 1, but no references"),
		Path: problem.ToRefcount(0, 104), Extent: qcow2.Extent{Offset: 0x200d0, Length: 2}, Value: problem.Words("1"), Expected: problem.Words("0"), Fixed: true})
	mended := &Repair{OldSize: 0x690000, NewSize: 0x690000, Undo: "disk.qcow2.qcheck-undo", Count: 1, Bytes: 8, Edits: slices.Values([]Edit{{Stage: "release", Offset: 0x200d0,
		Old: []byte{0, 1, 0, 0, 0, 0, 0, 0}, New: make([]byte, 8), Reason: "set refcounts to 0", Codes: []problem.Code{problem.RefcountTooHigh}}})}
	examples := map[string][]byte{
		"repair": write(t, FormatJSON, Options{}, Image{Name: "disk.qcow2", Result: leaks, Repair: mended}),
		"check":  write(t, FormatJSON, Options{}, Image{Name: "disk.qcow2", Result: res}),
		"failed": write(t, FormatJSON, Options{}, Image{Name: "notes.txt", Err: fmt.Errorf("notes.txt: %w", qcow2.ErrNotQcow2)}),
		"info":   infoText.Bytes(),
		"bitmap": bitmapText.Bytes(),
	}
	const path = "../docs/json.md"
	page, err := os.ReadFile(path)
	require.NoError(t, err)
	found := 0
	made := exampleBlock.ReplaceAllFunc(page, func(block []byte) []byte {
		m := exampleBlock.FindSubmatch(block)
		found++
		return bytes.Replace(block, append([]byte("```json\n"), m[2]...), append([]byte("```json\n"), examples[string(m[1])]...), 1)
	})
	assert.Equal(t, len(examples), found)
	if *update {
		require.NoError(t, os.WriteFile(path, made, 0o644))
		return
	}
	assert.Equal(t, string(made), string(page), "run the tests with -update")
}
