package check

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// memSibling is another file of a size, all zeros.
type memSibling struct {
	*bytes.Reader
	closed *bool
}

func (s memSibling) Close() error { *s.closed = true; return nil }

func TestDataFile(t *testing.T) {
	const nameAt = 112 + 8
	name := qcow2.EncodeExtension(qcow2.ExtDataFile, []byte("disk.raw"))
	bit := func(h *qcow2.Header) { h.IncompatibleFeatures |= qcow2.IncompatDataFile }
	image := minimalImage{exts: [][]byte{name}, header: bit}
	for label, tt := range map[string]struct {
		image  minimalImage
		open   error // what comes of opening the data file
		size   int
		mapped uint64
		opened string // the name that was asked for
		want   []found
	}{
		"there":                      {image: image, size: 4096, mapped: 4096, opened: "disk.raw"},
		"there, last sector in part": {image: image, size: 4095, mapped: 4096, opened: "disk.raw"},
		"too short":                  {image: image, size: 3584, mapped: 4096, opened: "disk.raw", want: []found{{problem.DataFileMissing, nameAt, 8}}},
		"empty, nothing mapped":      {image: image, opened: "disk.raw"},
		"gone":                       {image: image, open: fmt.Errorf("open: %w", fs.ErrNotExist), mapped: 4096, opened: "disk.raw", want: []found{{problem.DataFileMissing, nameAt, 8}}},
		"cannot be opened":           {image: image, open: errors.New("locked"), mapped: 4096, opened: "disk.raw", want: []found{{problem.Unreadable, nameAt, 8}}},
		"no name":                    {image: minimalImage{header: bit}, want: []found{{problem.DataFileUnnamed, 72, 8}}},
		"empty name":                 {image: minimalImage{header: bit, exts: [][]byte{qcow2.EncodeExtension(qcow2.ExtDataFile, nil)}}, want: []found{{problem.DataFileUnnamed, 72, 8}}},
		"name with a NUL":            {image: minimalImage{header: bit, exts: [][]byte{qcow2.EncodeExtension(qcow2.ExtDataFile, []byte("disk\x00raw"))}}, opened: "disk"},
		"not a path":                 {image: minimalImage{header: bit, exts: [][]byte{qcow2.EncodeExtension(qcow2.ExtDataFile, []byte("nbd://host/x"))}}},
		"name without the bit":       {image: minimalImage{exts: [][]byte{name}}},
	} {
		t.Run(label, func(t *testing.T) {
			var asked string
			closed := false
			opts := Options{OpenSibling: func(kind SiblingKind, name, format string) (Sibling, error) {
				asked = name
				assert.Equal(t, SiblingDataFile, kind)
				assert.Equal(t, "raw", format)
				if tt.open != nil {
					return nil, tt.open
				}
				return memSibling{bytes.NewReader(make([]byte, tt.size)), &closed}, nil
			}}
			if tt.want == nil {
				tt.want = []found{}
			}
			c := newRun(t.Context(), openTest(t, tt.image.bytes(t)), opts)
			require.NoError(t, c.checkDataFile())
			c.dataFileEnd = tt.mapped
			c.checkDataFileSize()
			assert.Equal(t, tt.want, foundIn(&Result{Findings: c.Collector.Findings()}))
			assert.Equal(t, tt.opened, asked)
			assert.Equal(t, asked != "" && tt.open == nil, closed, "what was opened must be closed")
		})
	}

	t.Run("no way to open it", func(t *testing.T) {
		c := newRun(t.Context(), openTest(t, image.bytes(t)), Options{})
		require.NoError(t, c.checkDataFile())
		c.dataFileEnd = 1 << 40
		c.checkDataFileSize()
		assert.Empty(t, c.Collector.Findings())
	})
}
