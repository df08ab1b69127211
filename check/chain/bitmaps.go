package chain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/qcheck/qcheck/check"
)

// Bitmap is what the layers of a chain have of the bitmaps of one name.
//
// When a snapshot is taken into a new overlay, libvirt adds a bitmap of the same name
// there: what the guest writes from then on is recorded in the overlay, and what it wrote
// before is in the layer below. An incremental backup merges them all. So the name stands
// for one bitmap only if no layer that was written to since is without it.
type Bitmap struct {
	Name string // as in the images, not escaped
	// Layers are the numbers of the layers that have it, the top one first.
	Layers []int
	// In are the bitmaps, in the order of Layers.
	In []check.BitmapInfo
	// Why says why a checkpoint or an incremental backup cannot use it; empty where it can.
	Why string
}

// Usable tells whether a libvirt checkpoint or an incremental backup can use the bitmap.
// These are libvirt's rules (the bitmap starts at the top, without a gap, and all of it
// records and is consistent), and QEMU's: bitmaps of disks of different lengths cannot
// be merged.
func (b *Bitmap) Usable() bool { return b.Why == "" }

// GranularitiesAgree tells whether the bitmap has one granularity in all layers. It can be
// used even if not: QEMU merges bitmaps of different granularities.
func (b *Bitmap) GranularitiesAgree() bool {
	return !slices.ContainsFunc(b.In, func(x check.BitmapInfo) bool { return x.GranularityBits != b.In[0].GranularityBits })
}

// bitmapsOf collects the bitmaps of all layers.
func bitmapsOf(layers []Layer) []Bitmap {
	var all []Bitmap
	index := make(map[string]int)
	for i := range layers {
		if layers[i].Result == nil {
			continue
		}
		for _, info := range layers[i].Result.Bitmaps {
			k, ok := index[info.Name]
			if !ok {
				k = len(all)
				index[info.Name] = k
				all = append(all, Bitmap{Name: info.Name})
			}
			all[k].Layers = append(all[k].Layers, i)
			all[k].In = append(all[k].In, info)
		}
	}
	for k := range all {
		all[k].Why = strings.Join(all[k].faults(layers), "; ")
	}
	return all
}

// faults says what keeps the bitmap from being used.
func (b *Bitmap) faults(layers []Layer) (why []string) {
	name := func(i int) string { return fmt.Sprintf(`"%s"`, check.Excerpt(layers[i].Name)) }
	if b.Layers[0] != 0 {
		why = append(why, fmt.Sprintf("the image itself does not have it, only %s: writes to the image are not recorded", name(b.Layers[0])))
	}
	for k, i := range b.Layers {
		switch gap := k > 0 && i > b.Layers[k-1]+1; {
		case k > 0 && i == b.Layers[k-1]:
			why = append(why, fmt.Sprintf("%s has it twice", name(i)))
			continue
		case gap:
			why = append(why, fmt.Sprintf("%s does not have it, but %s below does: writes in between were not recorded", name(i-1), name(i)))
		}
		switch x := &b.In[k]; x.State {
		case check.BitmapInconsistent:
			why = append(why, fmt.Sprintf("it is inconsistent in %s", name(i)))
		case check.BitmapUnusable:
			why = append(why, fmt.Sprintf("it is unusable in %s: %s", name(i), x.Why))
		case check.BitmapDisabled:
			why = append(why, fmt.Sprintf("it is disabled in %s and records nothing", name(i)))
		}
		if layers[i].Size != layers[b.Layers[0]].Size {
			why = append(why, fmt.Sprintf("%s and %s differ in length, so that QEMU cannot merge their bitmaps", name(b.Layers[0]), name(i)))
		}
	}
	return why
}

// Unmet judges requirements by the whole chain, and gives what is not met, as sentences.
// What [check.Run] says of the image alone is not repeated. With all, every bitmap that any
// layer has must be usable.
func (c *Chain) Unmet(require []check.BitmapRequirement, all bool) (unmet []string) {
	for i := range c.Bitmaps {
		b := &c.Bitmaps[i]
		k := slices.IndexFunc(require, func(r check.BitmapRequirement) bool { return r.Name == b.Name })
		if b.Usable() || k < 0 && !all {
			continue
		}
		if k >= 0 && require[k].State == check.BitmapDisabled {
			continue // nothing is to use it: it is kept as a record
		}
		if only := b.In[0].State; len(b.Layers) == 1 && b.Layers[0] == 0 && only != check.BitmapDisabled {
			continue // the check of the image alone has said it
		}
		unmet = append(unmet, fmt.Sprintf("bitmap %s through the chain: %s", check.Excerpt(b.Name), b.Why))
	}
	return unmet
}
