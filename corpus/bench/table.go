package main

import (
	"fmt"
	"time"
)

const tableHead = `| image | qcheck | CPU | memory | qemu-img | CPU | memory | ratio | goal |
|---|---:|---:|---:|---:|---:|---:|---:|---|`

// line is a row of the table, in Markdown; b is empty where the other program could
// not do it.
func line(r row, a, b figures) string {
	s := fmt.Sprintf("| %s | %s |", r.name, cells(a))
	switch {
	case len(b) == 0:
		s += " fails | | | –"
	case b[0].stopped:
		s += fmt.Sprintf(" %s | > %s×", cells(b), number(float64(b[0].wall)/float64(a.wall())))
	default:
		s += fmt.Sprintf(" %s | %s×", cells(b), number(float64(b.wall())/float64(a.wall())))
	}
	return s + " | " + r.goal + " |"
}

// cells are the time, the CPU time and the memory of some runs.
func cells(f figures) string {
	least, most := f.spread()
	wall := fmt.Sprintf("%s (%s–%s)", seconds(f.wall()), seconds(least), seconds(most))
	if len(f) == 1 {
		wall = seconds(f.wall()) + " (once)"
	}
	if f[0].stopped {
		wall = "stopped after " + seconds(f.wall())
	}
	return fmt.Sprintf("%s | %s | %.0f MB", wall, seconds(f.cpu()), float64(f.peak())/1e6)
}

func seconds(d time.Duration) string {
	switch s := d.Seconds(); {
	case s < 0.1:
		return fmt.Sprintf("%.1f ms", s*1e3)
	case s < 10:
		return fmt.Sprintf("%.2f s", s)
	default:
		return fmt.Sprintf("%.0f s", s)
	}
}

func number(x float64) string {
	if x < 10 {
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.0f", x)
}
