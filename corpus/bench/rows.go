package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// row is one line of the table.
type row struct {
	name  string
	image string // see recipes
	goal  string // what the design asks for
	// ours and theirs are what is measured.
	ours, theirs func(c *config, path string) command
	// fresh: each run gets a new copy of the image, since it changes it.
	fresh bool
	// cold: what the kernel has of the image is thrown away before each run.
	cold bool
	// slow: qemu-img takes minutes.
	slow bool
	// long: the image's file is longer than some file systems allow.
	long bool
}

// Exit codes of both programs.
const (
	foundCorruption = 2
	foundLeaks      = 3
)

func ours(args ...string) func(*config, string) command {
	return func(c *config, path string) command {
		return command{argv: append(append([]string{c.qcheck}, args...), path), ok: []int{0, foundCorruption, foundLeaks}}
	}
}

func theirs(args ...string) func(*config, string) command {
	return func(c *config, path string) command {
		return command{argv: append(append([]string{c.qemu, "check"}, args...), path), ok: []int{0, foundCorruption, foundLeaks}}
	}
}

// onOne gives a program one processor.
func onOne(f func(*config, string) command) func(*config, string) command {
	return func(c *config, path string) command {
		x := f(c, path)
		x.env = append(x.env, "GOMAXPROCS=1")
		return x
	}
}

// reading is what merely reads the metadata.
func reading(_ *config, path string) command {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	return command{argv: []string{self, "read", path}}
}

// shell runs a script in a folder, which it has as $1, with a program as $2.
func shell(script string, program func(c *config) string) func(*config, string) command {
	return func(c *config, path string) command {
		return command{argv: []string{"/bin/sh", "-c", script, "sh", path, program(c)}}
	}
}

var rows = []row{
	{name: "1 TiB, contiguous", image: "contiguous", goal: "≥ 25×", ours: ours(), theirs: theirs()},
	{name: "– against only reading the same bytes", image: "contiguous", goal: "≥ 0.5×", ours: ours(), theirs: reading},
	{name: "– on one processor", image: "contiguous", goal: "≥ 10×", ours: onOne(ours()), theirs: theirs()},
	{name: "– cold", image: "contiguous", ours: ours(), theirs: theirs(), cold: true},
	{name: "– cold, against only reading", image: "contiguous", ours: ours(), theirs: reading, cold: true},
	{name: "1 TiB, shuffled", image: "shuffled", goal: "≥ 500×", ours: ours(), theirs: theirs(), slow: true},
	{name: "– cold, against only reading", image: "shuffled", ours: ours(), theirs: reading, cold: true},
	{name: "64 GiB, 100 snapshots", image: "snapshots", goal: "≥ 30×", ours: ours(), theirs: theirs()},
	{name: "1 TiB, 64 bitmaps", image: "bitmaps", goal: "≥ 10×", ours: ours(), theirs: theirs()},
	{name: "1 TiB, 262,144 leaks: check", image: "leaks", ours: ours(), theirs: theirs()},
	{name: "– repair, with undo journal", image: "leaks", goal: "≥ 10×", ours: ours("-r=leaks"), theirs: theirs("-r", "leaks"), fresh: true},
	{name: "1 TiB, 671,088 leaks apart: check", image: "scattered", ours: ours(), theirs: theirs()},
	{name: "– repair, with undo journal", image: "scattered", goal: "≥ 10×", ours: ours("-r=leaks"), theirs: theirs("-r", "leaks"), fresh: true},
	{name: "1 TiB, 5 million wrong refcounts", image: "wrong", ours: ours(), theirs: theirs()},
	{name: "10 GiB, nearly empty", image: "nearly empty", goal: "≥ 1×", ours: ours(), theirs: theirs()},
	{name: "1,000 small images", image: "small",
		ours:   shell(`cd "$1" && exec "$2" -q *.qcow2`, func(c *config) string { return c.qcheck }),
		theirs: shell(`cd "$1" && for i in *.qcow2; do "$2" check -q "$i" || exit; done`, func(c *config) string { return c.qemu })},
	{name: "more than 2³¹ clusters", image: "beyond", goal: "completes", ours: ours(), theirs: theirs()},
	{name: "1 TiB, 64 GiB mapped, 4 KiB clusters", image: "4K clusters", ours: ours(), theirs: theirs()},
	{name: "512 GiB, extended L2 entries", image: "extended L2", ours: ours(), theirs: theirs()},
	{name: "1 TiB, refcounts of 1 bit", image: "refcount 1", ours: ours(), theirs: theirs()},
	{name: "1 TiB, refcounts of 64 bits", image: "refcount 64", ours: ours(), theirs: theirs()},
	{name: "1 TiB, 1 MiB clusters", image: "linear 1 TiB", ours: ours(), theirs: theirs()},
	{name: "4 TiB, 1 MiB clusters", image: "linear 4 TiB", goal: "4× the time of 1 TiB", ours: ours(), theirs: theirs()},
	{name: "16 TiB, 1 MiB clusters", image: "linear 16 TiB", goal: "16× the time of 1 TiB", ours: ours(), theirs: theirs(), long: true},
}

const (
	tooSlow = time.Minute   // when qemu-img is stopped
	slowest = 2 * time.Hour // when it is stopped with -slow
)

// row makes the image of a row, measures, prints, and removes the image. The image
// of the row before is used again where it is the same.
func (c *config) row(ctx context.Context, r row) error {
	path := filepath.Join(c.dir, "image")
	if c.have != r.image {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		c.have = ""
		self, err := os.Executable()
		if err != nil {
			return err
		}
		if _, err := (command{argv: []string{self, "make", r.image, path, c.qemu}}).run(ctx, time.Hour); err != nil {
			if r.long {
				fmt.Printf("| %s | not measured: the file system does not take such a file | | | | | | | %s |\n", r.name, r.goal)
				return nil
			}
			return err
		}
		c.have = r.image
	}
	var a, b figures
	runs := c.runs
	for i := range runs + 1 { // the first does not count
		u, err := c.measure(ctx, r, r.ours(c, path), path, slowest)
		if err != nil {
			return err
		}
		if i > 0 {
			a = append(a, u)
		}
		switch {
		case r.slow && len(b) > 0: // once must do
		case r.slow:
			limit := tooSlow
			if c.slow {
				limit = slowest
			}
			if u, err = c.measure(ctx, r, r.theirs(c, path), path, limit); err != nil {
				return err
			}
			b = append(b, u)
		default:
			u, err = c.measure(ctx, r, r.theirs(c, path), path, slowest)
			if err != nil {
				b = nil
				if i == runs {
					fmt.Fprintf(os.Stderr, "%s: %v\n", r.name, err)
				}
				continue
			}
			if i > 0 {
				b = append(b, u)
			}
		}
	}
	fmt.Println(line(r, a, b))
	return nil
}

// measure runs a command once, on the image as the row wants it.
func (c *config) measure(ctx context.Context, r row, cmd command, path string, limit time.Duration) (usage, error) {
	if r.fresh {
		work := path + ".copy"
		defer os.Remove(work)
		defer os.Remove(work + ".qcheck-undo")
		if err := run("cp", "--sparse=always", path, work); err != nil {
			return usage{}, err
		}
		// What the copy has still to write would count as the repair's.
		if err := evict(work); err != nil {
			return usage{}, err
		}
		if _, err := reading(c, work).run(ctx, limit); err != nil {
			return usage{}, err
		}
		cmd.argv[len(cmd.argv)-1] = work
	}
	if r.cold {
		if err := evict(path); err != nil {
			return usage{}, err
		}
	}
	return cmd.run(ctx, limit)
}
