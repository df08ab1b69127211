package main

import (
	"fmt"
	"io"
	"math"
	"time"

	"github.com/qcheck/qcheck/check"
)

// When a progress line is shown. Most checks are over before anyone could read
// one.
const (
	progressAfter   = 500 * time.Millisecond
	progressRedraw  = 100 * time.Millisecond // on a terminal
	progressLogging = 5 * time.Second        // between two lines of a log
)

// progressLine tells how far the check of one image has come: on a terminal in
// one line that is drawn again and again and goes away at the end, elsewhere in a
// line now and then. A nil line says nothing.
type progressLine struct {
	w        io.Writer
	terminal bool
	width    int // columns; 0: unknown
	name     string
	now      func() time.Time

	next  time.Time // nothing is shown before
	drawn bool

	pass    string
	began   time.Time // the pass
	started uint64    // bytes it had done then
}

// newProgressLine makes a line for an image, or nil where --progress says that
// there is to be none.
func newProgressLine(when string, w io.Writer, name string) *progressLine {
	width := terminalWidth(w)
	if when == "never" || when == "auto" && width == 0 {
		return nil
	}
	p := &progressLine{w: w, terminal: width > 0, width: width, name: check.Escape(name), now: time.Now}
	p.next = p.now().Add(progressAfter)
	return p
}

// hook is what [check.Options] takes.
func (p *progressLine) hook() func(check.Progress) {
	if p == nil {
		return nil
	}
	return p.update
}

func (p *progressLine) update(at check.Progress) {
	now := p.now()
	if at.Pass != p.pass {
		p.pass, p.began, p.started = at.Pass, now, at.Done
	}
	if !now.Before(p.next) {
		p.show(p.text(at, now))
	}
}

// show shows a line, unless it is too early for another.
func (p *progressLine) show(text string) {
	now := p.now()
	if now.Before(p.next) {
		return
	}
	if !p.terminal {
		p.next = now.Add(progressLogging)
		fmt.Fprintln(p.w, text)
		return
	}
	p.next, p.drawn = now.Add(progressRedraw), true
	if r := []rune(text); len(r) >= p.width {
		text = string(r[:max(0, p.width-1)]) // in the last column it would wrap
	}
	fmt.Fprintf(p.w, "\r%s\x1b[K", text)
}

// text is the line: the pass, how much of the metadata it has to read it has read,
// how fast, and when it will be done.
func (p *progressLine) text(at check.Progress, now time.Time) string {
	text := p.name + ": " + at.Pass
	if at.Total == 0 {
		return text
	}
	text += fmt.Sprintf(": %d%% of %s", int(100*float64(min(at.Done, at.Total))/float64(at.Total)), bytesText(float64(at.Total)))
	took := now.Sub(p.began).Seconds()
	rate := float64(at.Done-min(at.Done, p.started)) / took
	if took <= 0 || rate <= 0 {
		return text
	}
	left := math.Ceil(float64(at.Total-min(at.Done, at.Total)) / rate)
	return text + fmt.Sprintf(", %s/s, %s left", bytesText(rate), time.Duration(min(left, math.MaxInt32))*time.Second)
}

// done takes the line away, before anything else is written.
func (p *progressLine) done() {
	if p != nil && p.drawn {
		p.drawn = false
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// bytesText writes a number of bytes as people read it.
func bytesText(n float64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	i := 0
	for ; n >= 1024 && i < len(units)-1; i++ {
		n /= 1024
	}
	return fmt.Sprintf("%.3g %s", n, units[i])
}
