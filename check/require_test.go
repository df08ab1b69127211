package check

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/qcow2"
)

func TestParseBitmapRequirement(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]BitmapRequirement{
		"b":                                {Name: "b"},
		"b,granularity=65536":              {Name: "b", Granularity: 65536},
		"b,granularity=64k":                {Name: "b", Granularity: 65536},
		"b,granularity=2G":                 {Name: "b", Granularity: 2 << 30},
		"b,granularity=1m":                 {Name: "b", Granularity: 1 << 20},
		"b,granularity=1":                  {Name: "b", Granularity: 1},
		"b,state=enabled":                  {Name: "b", State: BitmapEnabled},
		"b,state=disabled":                 {Name: "b", State: BitmapDisabled},
		"b,state=disabled,granularity=512": {Name: "b", State: BitmapDisabled, Granularity: 512},
		"a,,b,state=enabled":               {Name: "a,b", State: BitmapEnabled},
		"a,,,,b":                           {Name: "a,,b"},
		",,":                               {Name: ","},
		"a,,,granularity=512":              {Name: "a,", Granularity: 512},
		"granularity=64k":                  {Name: "granularity=64k"},
		"ä b":                              {Name: "ä b"},
	} {
		got, err := ParseBitmapRequirement(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, got, text)
	}
	for _, text := range []string{
		"", ",granularity=64k", "b,", "b,x", "b,granularity", "b,granularity=", "b,granularity=k", "b,granularity=0",
		"b,granularity=3", "b,granularity=-1", "b,granularity=64kk", "b,granularity=16777216T", "b,granularity=34359738368G",
		"b,state=", "b,state=inconsistent", "b,size=1", "b,state=enabled,state=disabled", "a,b",
	} {
		_, err := ParseBitmapRequirement(text)
		assert.Error(t, err, text)
	}
}

func TestRequirements(t *testing.T) {
	t.Parallel()
	build := func(header func(*qcow2.Header), edit func(*bitmapImage)) *bitmapImage {
		bad := newBitmap("bad", auto)
		bad.Type = 2
		return newBitmapImage(t, header, edit, newBitmap("on", auto), newBitmap("off", 0), newBitmap("used", inUse), bad, newBitmap("twice", 0), newBitmap("twice", 0))
	}
	unmet := func(m *bitmapImage, rs ...BitmapRequirement) int {
		return len(m.inspect(t, Options{Require: rs}).res.Unmet)
	}
	m := build(nil, nil)
	for _, r := range []BitmapRequirement{
		{Name: "on"}, {Name: "on", State: BitmapEnabled}, {Name: "on", Granularity: 512, State: BitmapEnabled},
		{Name: "off"}, {Name: "off", State: BitmapDisabled}, {Name: "off", Granularity: 512},
	} {
		assert.Zero(t, unmet(m, r), "%v", r)
	}
	for _, r := range []BitmapRequirement{
		{Name: "none"}, {Name: ""}, {Name: "on", State: BitmapDisabled}, {Name: "on", Granularity: 65536}, {Name: "off", State: BitmapEnabled},
		{Name: "used"}, {Name: "used", Granularity: 512}, {Name: "bad"}, {Name: "twice"}, {Name: "on", Granularity: 1, State: BitmapDisabled},
	} {
		assert.Equal(t, 1, unmet(m, r), "%v", r)
	}
	assert.Equal(t, 2, unmet(m, BitmapRequirement{Name: "x"}, BitmapRequirement{Name: "on"}, BitmapRequirement{Name: "y"}))

	stale := build(func(h *qcow2.Header) { h.AutoclearFeatures = 0 }, nil)
	assert.Equal(t, 1, unmet(stale, BitmapRequirement{Name: "on"}), "stale bitmaps say nothing")
}

func TestRequirementsOfABrokenImage(t *testing.T) {
	t.Parallel()
	for _, header := range []func(*qcow2.Header){
		func(h *qcow2.Header) { h.ClusterBits = 40 },
		func(h *qcow2.Header) { h.Version = 9 },
	} {
		m := newBitmapImage(t, nil, nil, newBitmap("on", auto))
		header(&m.h)
		m.writeHeader()
		r := m.inspect(t, Options{Require: []BitmapRequirement{{Name: "gone"}}})
		assert.Len(t, r.res.Unmet, 1)
	}
}

func TestStrict(t *testing.T) {
	t.Parallel()
	m := newBitmapImage(t, nil, nil, newBitmap("on", auto), newBitmap("used", inUse))
	assert.Empty(t, m.inspect(t, Options{Strict: true, Live: true}).res.Unmet, "notes are no warnings")
	assert.Len(t, m.inspect(t, Options{Strict: true}).res.Unmet, 1, "a bitmap that nobody has in use any more")
	m.write(m.extAt+qcow2.BitmapsExtReserved, []byte{0, 0, 0, 1})
	assert.Len(t, m.inspect(t, Options{Strict: true}).res.Unmet, 1)
	assert.Empty(t, m.inspect(t, Options{}).res.Unmet)
}
