package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/qcheck/qcheck/check"
)

// clock is a time that goes on when it is told to.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func newTestLine(w *bytes.Buffer, terminal bool) (*progressLine, *clock) {
	c := &clock{time.Unix(1000, 0)}
	return &progressLine{w: w, terminal: terminal, width: 40, name: "disk", now: c.now, next: c.t.Add(progressAfter)}, c
}

func TestProgressIsSilentForHalfASecond(t *testing.T) {
	var out bytes.Buffer
	p, c := newTestLine(&out, true)
	for range 4 {
		c.t = c.t.Add(progressAfter / 5)
		p.update(check.Progress{Pass: "mapping", Done: 1 << 20, Total: 1 << 30})
	}
	p.done()
	assert.Empty(t, out.String())
}

func TestProgressOnATerminal(t *testing.T) {
	var out bytes.Buffer
	p, c := newTestLine(&out, true)
	p.update(check.Progress{Pass: "mapping", Total: 1 << 30})
	c.t = c.t.Add(time.Second)
	p.update(check.Progress{Pass: "mapping", Done: 1 << 28, Total: 1 << 30})
	assert.Equal(t, "\rdisk: mapping: 25% of 1 GiB, 256 MiB/s,\x1b[K", out.String(), "cut to the width, and then cleared to the end")
	p.update(check.Progress{Pass: "mapping", Done: 1 << 29, Total: 1 << 30})
	assert.Equal(t, 1, strings.Count(out.String(), "disk"), "not more often than one can see")
	out.Reset()
	p.done()
	p.done()
	assert.Equal(t, "\r\x1b[K", out.String())
}

func TestProgressInALog(t *testing.T) {
	var out bytes.Buffer
	p, c := newTestLine(&out, false)
	for range 11 {
		c.t = c.t.Add(time.Second)
		p.update(check.Progress{Pass: "refcounts", Done: 10, Total: 40})
	}
	p.update(check.Progress{Pass: "copied"})
	c.t = c.t.Add(progressLogging)
	p.update(check.Progress{Pass: "copied"})
	p.done()
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	assert.Len(t, lines, 4)
	assert.Equal(t, "disk: refcounts: 25% of 40 bytes", lines[0])
	assert.Equal(t, "disk: copied", lines[3])
	assert.NotContains(t, out.String(), "\r")
}

func TestProgressWhenAndWhere(t *testing.T) {
	var out bytes.Buffer
	assert.Nil(t, newProgressLine("auto", &out, "disk"), "no terminal")
	assert.Nil(t, newProgressLine("never", &out, "disk"))
	p := newProgressLine("always", &out, "di\x1bsk")
	assert.NotContains(t, p.name, "\x1b")
	var none *progressLine
	none.done()
	assert.Nil(t, none.hook())
}
