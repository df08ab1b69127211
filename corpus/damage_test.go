package corpus

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/qcow2"
)

func damaged(t *testing.T, s Spec, damage ...Damage) (sound, img *Image, touched qcow2.Extent) {
	t.Helper()
	sound, err := Build(s)
	require.NoError(t, err)
	img, err = Build(s)
	require.NoError(t, err)
	for _, d := range damage {
		touched, err = d.Apply(img)
		require.NoError(t, err, d)
	}
	return sound, img, touched
}

func bytesAt(t *testing.T, img *Image, p Place) []byte {
	t.Helper()
	x, err := img.Find(p)
	require.NoError(t, err)
	b := make([]byte, x.Length)
	img.read(b, int64(x.Offset))
	return b
}

// TestDamageTouchesWhatItSays compares every byte of an image before and after:
// only those of the place have changed, as they should.
func TestDamageTouchesWhatItSays(t *testing.T) {
	t.Parallel()
	field := HeaderField(qcow2.FieldNbSnapshots)
	entry := L2Entry(used)
	for _, tt := range []struct {
		damage Damage
		place  Place
		want   []byte
	}{
		{Set(field, 0x01020304), field, []byte{1, 2, 3, 4}},
		{Add(field, -1), field, []byte{255, 255, 255, 255}},
		{SetBits(field, 0x81), field, []byte{0, 0, 0, 0x81}},
		{FlipBits(HeaderField(qcow2.FieldVersion), 1), HeaderField(qcow2.FieldVersion), []byte{0, 0, 0, 2}},
		{ClearBits(HeaderField(qcow2.FieldVersion), 1), HeaderField(qcow2.FieldVersion), []byte{0, 0, 0, 2}},
		{Wipe(entry), entry, make([]byte, 8)},
		{Put(entry, []byte("12345678")), entry, []byte("12345678")},
		{Point(entry, L1Table()), entry, []byte{0x80, 0, 0, 0, 0, 3, 0, 0}},
		{PointAt(entry, L1Table(), 0x200), entry, []byte{0x80, 0, 0, 0, 0, 3, 2, 0}},
		{SetOffset(entry, L1Table(), 8), entry, []byte{0, 0, 0, 0, 0, 3, 0, 8}},
		{SetRefcount(L1Table(), 7), RefcountOf(L1Table()), []byte{0, 7}},
		{AddRefcount(L1Table(), 2), RefcountOf(L1Table()), []byte{0, 3}},
	} {
		sound, img, touched := damaged(t, base(16), tt.damage)
		x, err := img.Find(tt.place)
		require.NoError(t, err)
		assert.Equal(t, x, touched, tt.damage)
		assert.Equal(t, tt.want, bytesAt(t, img, tt.place), tt.damage)
		// Put back, the image is as it was.
		assert.NotEqual(t, sound.Sum(), img.Sum(), tt.damage)
		img.write(bytesAt(t, sound, tt.place), x.Offset)
		assert.Equal(t, sound.Sum(), img.Sum(), tt.damage)
	}
}

func TestSwapAndCopy(t *testing.T) {
	t.Parallel()
	a, b := L2Entry(used), L2Entry(1<<16)
	sound, img, _ := damaged(t, base(16), Swap(a, b))
	assert.Equal(t, bytesAt(t, sound, a), bytesAt(t, img, b))
	assert.Equal(t, bytesAt(t, sound, b), bytesAt(t, img, a))
	sound, img, _ = damaged(t, base(16), Copy(a, b))
	assert.Equal(t, bytesAt(t, sound, b), bytesAt(t, img, a))
	assert.Equal(t, bytesAt(t, sound, b), bytesAt(t, img, b))
}

func TestTruncateAndExtend(t *testing.T) {
	t.Parallel()
	sound, img, touched := damaged(t, base(16), Truncate(Data(used), 100))
	x, err := sound.Find(Data(used))
	require.NoError(t, err)
	assert.EqualValues(t, x.Offset+100, img.Size())
	assert.EqualValues(t, x.Offset+100, touched.Offset)
	assert.EqualValues(t, sound.Size()-img.Size(), touched.Length)
	_, img, _ = damaged(t, base(16), Extend(1<<40))
	assert.EqualValues(t, 1<<40, img.Size())
}

// TestNarrowRefcounts sets refcounts that share a byte: the others stay.
func TestNarrowRefcounts(t *testing.T) {
	t.Parallel()
	for _, bits := range []uint{1, 2, 4, 8, 32, 64} {
		s := base(16)
		s.RefcountBits = bits
		img, err := Build(s)
		require.NoError(t, err)
		count := func(c qcow2.HostCluster) uint64 {
			block := make([]byte, img.g.ClusterSize())
			img.read(block, int64(img.g.HostOffset(img.blocks[0])))
			return getRefcount(block, img.g.RefcountOrder, uint64(c))
		}
		for c := range qcow2.HostCluster(12) {
			before := []uint64{count(c + 1), 0}
			if c > 0 {
				before[1] = count(c - 1)
			}
			_, err := SetRefcount(Bytes(img.g.HostOffset(c), 1), 0).Apply(img)
			require.NoError(t, err)
			assert.Zero(t, count(c), "%d bits, cluster %d", bits, c)
			_, err = SetRefcount(Bytes(img.g.HostOffset(c), 1), 1).Apply(img)
			require.NoError(t, err)
			assert.EqualValues(t, 1, count(c), "%d bits, cluster %d", bits, c)
			after := []uint64{count(c + 1), 0}
			if c > 0 {
				after[1] = count(c - 1)
			}
			assert.Equal(t, before, after, "%d bits, cluster %d", bits, c)
		}
		if bits < 64 {
			_, err := SetRefcount(L1Table(), 1<<bits).Apply(img)
			assert.Error(t, err, "%d bits", bits)
		}
	}
}

func TestDamageThatCannotBeDone(t *testing.T) {
	t.Parallel()
	img, err := Build(base(16))
	require.NoError(t, err)
	before := img.Sum()
	for _, d := range []Damage{
		Set(L2Entry(uint64(512<<20)), 1), Set(HeaderCluster(), 1), Swap(L2Entry(used), L1Table()), Swap(L1Entry(0), L2Entry(uint64(512<<20))),
		Copy(L1Entry(0), L2Entry(uint64(512<<20))), Copy(L2Entry(uint64(512<<20)), L1Entry(0)), Point(L1Entry(0), L2Table(uint64(512<<20))),
		SetOffset(L1Entry(0), CryptoHeader(), 0), Truncate(BackingName(), 0), Extend(1), SetRefcount(Data(unused(16)), 1),
		SetRefcount(Bytes(1<<40, 1), 1), Wipe(BitmapDirectory()),
	} {
		_, err := d.Apply(img)
		assert.Error(t, err, d)
	}
	assert.Equal(t, before, img.Sum())
}

func TestDamageSaysWhatItDoes(t *testing.T) {
	t.Parallel()
	for _, c := range Cases() {
		for _, d := range c.Damage {
			assert.NotEmpty(t, d.String(), c.Name)
			assert.False(t, strings.Contains(d.String(), "%!"), c.Name)
			assert.Less(t, len(d.String()), 200, c.Name)
		}
		assert.False(t, strings.HasSuffix(c.Story, "."), c.Name)
	}
}
