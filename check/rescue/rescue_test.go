package rescue_test

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/rescue"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

// memory is a file in memory.
type memory struct{ b []byte }

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(m.b)) {
		return 0, io.EOF
	}
	n := copy(p, m.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	return copy(m.b[off:], p), nil
}

func (m *memory) Truncate(size int64) error {
	if size > int64(len(m.b)) {
		m.b = append(m.b, make([]byte, size-int64(len(m.b)))...)
	}
	m.b = m.b[:size]
	return nil
}

func load(t *testing.T, img *corpus.Image) *memory {
	t.Helper()
	m := &memory{make([]byte, img.Size())}
	n, err := img.ReadAt(m.b, 0)
	if err != io.EOF {
		require.NoError(t, err)
	}
	require.EqualValues(t, img.Size(), n)
	return m
}

// guest reads a disk as far as this file alone has it.
func guest(t *testing.T, img *qcow2.Image, n int64) []byte {
	t.Helper()
	d, err := img.ActiveDisk(qcow2.DiskOptions{})
	require.NoError(t, err)
	b := make([]byte, n)
	_, err = d.ReadAt(b, 0)
	if err != io.EOF {
		require.NoError(t, err)
	}
	return b
}

func TestHeaderGone(t *testing.T) {
	for _, c := range corpus.Cases() {
		if !c.Healthy() || c.Huge || c.Long || len(c.Damage) > 0 {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			img, err := corpus.Build(c.Spec)
			require.NoError(t, err)
			if img.Size() > 64<<20 {
				t.Skip("large")
			}
			m := load(t, img)
			copy(m.b, make([]byte, 512))
			opts := rescue.Options{}
			if c.Spec.DataFile != nil {
				opts.DataFile = "data"
			}
			damaged := bytes.Clone(m.b)
			plan, err := rescue.Make(t.Context(), m, int64(len(m.b)), opts)
			require.NoError(t, err)
			for _, f := range plan.Facts {
				t.Log(fmt.Sprintf("%s: %s (%s; %s)", f.What, f.Value, f.Source, f.Why))
			}
			require.Equal(t, damaged, m.b)
			require.NoError(t, plan.WriteTo(t.Context(), m))
			out, err := qcow2.Open(m, int64(len(m.b)))
			require.NoError(t, err)
			res, err := check.Run(t.Context(), out, check.Options{NoBacking: true})
			require.NoError(t, err)
			for i := range res.Findings {
				t.Log(res.Findings[i].Code, res.Findings[i].Message)
			}
			assert.Equal(t, 0, res.ExitCode())
			if c.Spec.Crypt != 0 || c.Spec.DataFile != nil || c.Spec.Backing != nil || c.Spec.Size > 1<<30 {
				return
			}
			want := make([]byte, c.Spec.Size&^511)
			_, _ = img.Guest().ReadAt(want, 0)
			got := guest(t, out, int64(len(want)))
			assert.True(t, bytes.Equal(want, got))
		})
	}
}
