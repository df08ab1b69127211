package check

// LiveBitmap is a dirty bitmap in the memory of a QEMU that has the image open, as it tells
// of it. What the image itself says of such bitmaps is older.
type LiveBitmap struct {
	Name        string // not escaped
	Granularity uint64 // bytes
	Count       uint64 // dirty bytes
	// Recording: writes are recorded. Busy: a job or an export uses it, and nobody else
	// can. Persistent: it is stored when the image is closed. Inconsistent: it was not
	// stored the last time, and can only be removed.
	Recording, Busy, Persistent, Inconsistent bool
}

// State is what QEMU does with the bitmap.
func (b *LiveBitmap) State() BitmapState {
	switch {
	case b.Inconsistent:
		return BitmapInconsistent
	case b.Recording:
		return BitmapEnabled
	}
	return BitmapDisabled
}

// unmetLive says what keeps the bitmaps in QEMU's memory from meeting a requirement; empty
// when nothing does.
func (r BitmapRequirement) unmetLive(live []LiveBitmap) (why []string) {
	var b *LiveBitmap
	for i := range live {
		if live[i].Name == r.Name {
			b = &live[i]
		}
	}
	if b == nil {
		return []string{"QEMU has no such bitmap"}
	}
	if r.Granularity != 0 && r.Granularity != b.Granularity {
		why = append(why, "its granularity is "+ReadableSize(b.Granularity))
	}
	switch {
	case b.Inconsistent:
		why = append(why, "it is inconsistent: it was in use when the image was closed last")
	case r.State != "" && r.State != b.State():
		why = append(why, "it is "+string(b.State()))
	}
	if b.Busy {
		why = append(why, "it is busy: a job or an export uses it")
	}
	if !b.Persistent {
		why = append(why, "it is not persistent: it is gone when QEMU closes the image")
	}
	return why
}

// unmetAllLive says what keeps the bitmaps in QEMU's memory from being usable, all of them.
func unmetAllLive(live []LiveBitmap) (unmet []string) {
	if len(live) == 0 {
		return []string{"all bitmaps: QEMU has none"}
	}
	for _, b := range live {
		for _, why := range (BitmapRequirement{Name: b.Name}).unmetLive(live) {
			unmet = append(unmet, "bitmap "+Excerpt(b.Name)+": "+why)
		}
	}
	return unmet
}
