package check

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/qcheck/qcheck/check/problem"
)

// BitmapRequirement is a bitmap that an image must have.
type BitmapRequirement struct {
	Name string
	// Granularity is the granularity in bytes that it must have. The default
	// is 0: any.
	Granularity uint64
	// State is the state that it must be in. The default is "": enabled or
	// disabled, but usable.
	State BitmapState
}

// ParseBitmapRequirement reads a requirement as it is given on the command line:
// NAME[,granularity=N][,state=enabled|disabled]. N is in bytes, a power of two,
// and may have one of the suffixes k, M and G (powers of 1024). A comma that is
// part of the name is doubled.
func ParseBitmapRequirement(text string) (BitmapRequirement, error) {
	var r BitmapRequirement
	fields := splitOptions(text)
	if r.Name = fields[0]; r.Name == "" {
		return r, fmt.Errorf("a bitmap's name is missing in %q", text)
	}
	seen := make(map[string]bool)
	for _, field := range fields[1:] {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return r, fmt.Errorf("%q is not KEY=VALUE (a comma that is part of a bitmap's name is doubled)", field)
		}
		if seen[key] {
			return r, fmt.Errorf("%s is given twice", key)
		}
		seen[key] = true
		switch key {
		case "granularity":
			n, ok := parseBytes(value)
			if !ok || bits.OnesCount64(n) != 1 {
				return r, fmt.Errorf("a granularity is a power of two in bytes, such as 65536 or 64k, not %q", value)
			}
			r.Granularity = n
		case "state":
			if r.State = BitmapState(value); r.State != BitmapEnabled && r.State != BitmapDisabled {
				return r, fmt.Errorf("the state of a bitmap is %s or %s, not %q", BitmapEnabled, BitmapDisabled, value)
			}
		default:
			return r, fmt.Errorf("a bitmap can be required to have a granularity and a state, not %q", key)
		}
	}
	return r, nil
}

// splitOptions splits at commas; two commas stand for one that is meant.
func splitOptions(text string) []string {
	fields := []string{""}
	for part, rest := "", text; ; {
		i := strings.IndexByte(rest, ',')
		if i < 0 {
			fields[len(fields)-1] += rest
			return fields
		}
		part, rest = rest[:i], rest[i+1:]
		fields[len(fields)-1] += part
		if strings.HasPrefix(rest, ",") {
			fields[len(fields)-1] += ","
			rest = rest[1:]
			continue
		}
		fields = append(fields, "")
	}
}

// parseBytes reads a number of bytes with an optional suffix.
func parseBytes(s string) (uint64, bool) {
	shift := 0
	if s != "" {
		if i := strings.IndexByte("kmg", s[len(s)-1]|0x20); i >= 0 {
			shift, s = 10*(i+1), s[:len(s)-1]
		}
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n<<shift>>shift != n {
		return 0, false
	}
	return n << shift, true
}

// String words the requirement for a message.
func (r BitmapRequirement) String() string {
	s := fmt.Sprintf("bitmap %s", Escape(r.Name))
	if r.Granularity != 0 {
		s += fmt.Sprintf(" with a granularity of %d bytes", r.Granularity)
	}
	if r.State != "" {
		s += fmt.Sprintf(", %s", r.State)
	}
	return s
}

// checkRequirements tests what the options require of the image beyond being
// sound. It relies on the findings and the bitmaps of all other passes, and
// leaves behind the result's list of what is not met.
func (c *run) checkRequirements() error {
	named := make(map[string][]BitmapInfo)
	if len(c.opts.Require) > 0 || c.opts.RequireAll {
		for _, b := range c.res.Bitmaps {
			named[b.Name] = append(named[b.Name], b)
		}
	}
	for _, r := range c.opts.Require {
		if c.opts.LiveBitmaps != nil {
			if why := r.unmetLive(c.opts.LiveBitmaps); len(why) > 0 {
				c.res.Unmet = append(c.res.Unmet, fmt.Sprintf("%s: %s", r, strings.Join(why, "; ")))
			}
			continue
		}
		if why := c.unmetBitmap(r, named[r.Name]); why != "" {
			c.res.Unmet = append(c.res.Unmet, fmt.Sprintf("%s: %s", r, why))
		}
	}
	if c.opts.RequireAll && c.opts.LiveBitmaps != nil {
		c.res.Unmet = append(c.res.Unmet, unmetAllLive(c.opts.LiveBitmaps)...)
	} else if c.opts.RequireAll {
		c.res.Unmet = append(c.res.Unmet, c.unmetAll(named)...)
	}
	if n := problem.Count(c.Collector.Findings()).Warnings; c.opts.Strict && n > 0 {
		c.res.Unmet = append(c.res.Unmet, fmt.Sprintf("no warnings: there are %d", n))
	}
	c.res.Unmet = append(c.res.Unmet, c.tooLarge()...)
	if c.opts.Untrusted {
		c.res.Unmet = append(c.res.Unmet, c.untrusted()...)
	}
	return nil
}

// tooLarge says what is larger than is accepted.
func (c *run) tooLarge() (unmet []string) {
	if most := c.opts.MaxFileSize; most > 0 && uint64(max(c.img.Size(), 0)) > most {
		unmet = append(unmet, fmt.Sprintf("a file of at most %d bytes: it has %d", most, c.img.Size()))
	}
	most := c.opts.MaxVirtualSize
	if most == 0 {
		return unmet
	}
	if c.h.Size > most {
		unmet = append(unmet, fmt.Sprintf("a disk of at most %d bytes: it has %d", most, c.h.Size))
	}
	for i := range c.snapshots {
		if size, ok := c.snapshots[i].DiskSize(); ok && size > most && size != c.h.Size {
			// One is enough, and there can be 65,536.
			return append(unmet, fmt.Sprintf("a disk of at most %d bytes: that of snapshot %s has %d", most, Excerpt(c.snapshots[i].ID), size))
		}
	}
	return unmet
}

// unmetAll says what keeps the bitmaps of the image from being usable, all of them.
func (c *run) unmetAll(named map[string][]BitmapInfo) (unmet []string) {
	if len(named) == 0 {
		return []string{"all bitmaps: there is none"}
	}
	for _, b := range c.res.Bitmaps {
		there := named[b.Name]
		if b.EntryOffset != there[0].EntryOffset {
			continue // it has been judged with the first of its name
		}
		if why := c.unmetBitmap(BitmapRequirement{Name: b.Name}, there); why != "" {
			unmet = append(unmet, fmt.Sprintf("bitmap %s: %s", Excerpt(b.Name), why))
		}
	}
	return unmet
}

// unmetBitmap says what keeps the image from meeting a requirement; empty when
// nothing does. There are the bitmaps of its name.
func (c *run) unmetBitmap(r BitmapRequirement, there []BitmapInfo) string {
	lost := !c.img.GeometryOK || slices.ContainsFunc(c.doubts, func(d Doubt) bool { return d.Owner.isBitmap() })
	switch {
	case len(there) > 1:
		return fmt.Sprintf("there are %d bitmaps of this name", len(there))
	case len(there) == 0 && lost:
		return "there is no such bitmap among those that could be read"
	case len(there) == 0:
		return "there is no such bitmap"
	}
	b := there[0]
	var why []string
	if r.Granularity != 0 && (b.GranularityBits > 63 || r.Granularity != 1<<b.GranularityBits) {
		why = append(why, fmt.Sprintf("its granularity is 2^%d bytes", b.GranularityBits))
		if b.GranularityBits <= 63 {
			why[0] = fmt.Sprintf("its granularity is %d bytes", uint64(1)<<b.GranularityBits)
		}
	}
	switch {
	case b.State == BitmapUnusable:
		why = append(why, "it is unusable: "+b.Why)
	case b.State == BitmapInconsistent && c.opts.Live:
		why = append(why, "it is in use: whatever writes to the image has it in memory")
	case b.State == BitmapInconsistent:
		why = append(why, "it is inconsistent: it was in use when the image was closed last")
	case r.State != "" && r.State != b.State:
		why = append(why, fmt.Sprintf("it is %s", b.State))
	}
	return strings.Join(why, "; ")
}
