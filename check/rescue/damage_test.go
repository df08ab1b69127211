package rescue_test

import (
	"bytes"
	"errors"
	"flag"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/repair"
	"github.com/qcheck/qcheck/check/rescue"
	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

var rounds = flag.Int("rounds", 1, "how many times each image is damaged at random")

// truth holds that an image says nothing of its disk that the one before the damage did not
// say, and that what it does not say any more is listed as missing.
func truth(t *testing.T, was, is *qcow2.Image, damaged []byte, plan *rescue.Plan) {
	t.Helper()
	a, err := was.ActiveDisk(qcow2.DiskOptions{})
	require.NoError(t, err)
	b, err := is.ActiveDisk(qcow2.DiskOptions{})
	require.NoError(t, err)
	stored := func(x qcow2.GuestExtent) bool { return x.Kind == qcow2.GuestData || x.Kind == qcow2.GuestCompressed }
	size := uint64(b.Size())
	for x, err := range b.Map(0, qcow2.GuestOffset(size)) {
		require.NoError(t, err)
		if !stored(x) {
			continue
		}
		for y, err := range a.Map(x.Start, x.Start+qcow2.GuestOffset(x.Length)) {
			require.NoError(t, err)
			if uint64(y.Start) >= was.Header.Size {
				break
			}
			at := x.Host + qcow2.HostOffset(y.Start-x.Start)
			// The repair gives data a place of its own that something else lies in.
			if y.Kind != x.Kind || y.Host != at && !bytes.Equal(part(t, is, at, y.Length), part(t, before(damaged), y.Host, y.Length)) {
				for _, f := range plan.Facts {
					t.Logf("%s: %s (%s; %s)", f.What, f.Value, f.Source, f.Why)
				}
				t.Fatalf("wrong data at %v of the disk: %v at %v, it was %v at %v", y.Start, x.Kind, x.Host+qcow2.HostOffset(y.Start-x.Start), y.Kind, y.Host)
			}
		}
	}
	missing := func(from, to uint64) bool {
		for from < to {
			next := from
			for _, m := range plan.Missing {
				if m.Snapshot == "" && m.Offset <= from && from < m.Offset+m.Length {
					next = max(next, m.Offset+m.Length)
				}
			}
			if next == from {
				return false
			}
			from = next
		}
		return true
	}
	for x, err := range a.Map(0, qcow2.GuestOffset(was.Header.Size)) {
		require.NoError(t, err)
		if !stored(x) || uint64(x.Start) >= size && plan.Complete() == false {
			continue
		}
		for y, err := range b.Map(x.Start, x.Start+qcow2.GuestOffset(x.Length)) {
			require.NoError(t, err)
			if !stored(y) && !missing(uint64(y.Start), uint64(y.Start)+y.Length) && plan.Complete() &&
				!sniff.Zero(part(t, before(damaged), x.Host, min(x.Length, 1<<20))) {
				t.Fatalf("%d bytes at %v of the disk are gone, and nothing says so", y.Length, y.Start)
			}
		}
	}
}

// part reads bytes of a file.
func part(t *testing.T, r interface {
	ReadAt(p []byte, off qcow2.HostOffset) error
}, off qcow2.HostOffset, n uint64) []byte {
	t.Helper()
	b := make([]byte, n)
	require.NoError(t, r.ReadAt(b, off))
	return b
}

// before is a file as it was before the rescue.
type before []byte

func (d before) ReadAt(p []byte, off qcow2.HostOffset) error {
	clear(p)
	if uint64(off) < uint64(len(d)) {
		copy(p, d[off:])
	}
	return nil
}

// outcome rescues what it can. What comes of it is sound, and never a lie.
func outcome(t *testing.T, was *qcow2.Image, m *memory, opts rescue.Options) *rescue.Plan {
	t.Helper()
	damaged := bytes.Clone(m.b)
	plan, err := rescue.Make(t.Context(), m, int64(len(m.b)), opts)
	require.True(t, bytes.Equal(damaged, m.b), "the image was written to")
	if err != nil {
		_, guess := errors.AsType[*rescue.GuessError](err)
		_, refused := errors.AsType[*repair.RefusedError](err)
		_, unsound := errors.AsType[*rescue.UnsoundError](err)
		require.True(t, guess || refused || unsound || errors.Is(err, rescue.ErrNothing) || errors.Is(err, rescue.ErrNoMapping), "%v", err)
		return nil
	}
	require.NoError(t, plan.WriteTo(t.Context(), m))
	out, err := qcow2.Open(m, int64(len(m.b)))
	require.NoError(t, err)
	res, err := check.Run(t.Context(), out, check.Options{NoBacking: true})
	require.NoError(t, err)
	if !opts.AcceptGuesses && was != nil {
		truth(t, was, out, damaged, plan)
	}
	if opts.DataFile == "" && out.Header.HasDataFile() {
		return plan
	}
	assert.Equal(t, check.ExitSound, res.ExitCode(), "%v", res.Findings)
	return plan
}

// wipe overwrites a part of a file.
func (m *memory) wipe(r *rand.Rand, at, n uint64) {
	at = min(at, uint64(len(m.b)))
	n = min(n, uint64(len(m.b))-at)
	junk := r.IntN(2) == 0
	for i := range n {
		m.b[at+i] = 0
		if junk {
			m.b[at+i] = byte(r.Uint32())
		}
	}
}

// Whatever is overwritten, with zeros or junk: no wrong byte, and what is gone is named.
func TestDamage(t *testing.T) {
	sound(t, 4<<20, func(t *testing.T, i int, c *corpus.Case, img *corpus.Image) {
		was, err := img.Open()
		require.NoError(t, err)
		opts := rescue.Options{}
		if c.Spec.DataFile != nil {
			opts.DataFile = "data"
		}
		whole := load(t, img)
		size := was.Geometry.ClusterSize()
		for round := range *rounds {
			r := rand.New(rand.NewPCG(uint64(round), uint64(i)))
			m := &memory{bytes.Clone(whole.b)}
			for range 1 + r.IntN(3) {
				switch r.IntN(6) {
				case 0:
					m.wipe(r, 0, qcow2.SectorSize)
				case 1:
					m.wipe(r, 0, size*r.Uint64N(5))
				case 2:
					m.wipe(r, uint64(was.Header.L1TableOffset), uint64(was.Header.L1Size)*8)
				case 3:
					m.wipe(r, uint64(was.Header.RefcountTableOffset), size)
				case 4:
					m.wipe(r, size*r.Uint64N(uint64(len(m.b))/size+1), size)
				case 5:
					if was.Header.SnapshotsOffset != 0 {
						m.wipe(r, uint64(was.Header.SnapshotsOffset), size)
					} else if !c.Spec.Lazy {
						m.b = m.b[:r.Uint64N(uint64(len(m.b)))+1]
					}
				}
			}
			outcome(t, was, m, opts)
		}
	})
}
