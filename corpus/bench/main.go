// Command bench measures qcheck against qemu-img on the same images, in turns,
// and prints a table. It makes the images, one row's at a time, and removes
// them. See docs/performance.md; `make bench` runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// config is what the command line says.
type config struct {
	dir, qcheck, qemu string
	runs              int
	slow              bool
	only              *regexp.Regexp
	have              string // the image that is there
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "read" {
		if err := readMetadata(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "bench read:", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 5 && os.Args[1] == "make" {
		if err := makeImage(os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fmt.Fprintln(os.Stderr, "bench make:", err)
			os.Exit(1)
		}
		return
	}
	var c config
	var only string
	flag.StringVar(&c.dir, "dir", filepath.Join(os.TempDir(), "qcheck-bench"), "`folder` for the images; it takes less than 1 GB")
	flag.StringVar(&c.qcheck, "qcheck", "bin/qcheck", "the qcheck to measure")
	flag.StringVar(&c.qemu, "qemu-img", "qemu-img", "the qemu-img to compare it with")
	flag.IntVar(&c.runs, "runs", 5, "counted runs of each command, at least 3")
	flag.BoolVar(&c.slow, "slow", false, "let qemu-img end what takes it minutes (once); otherwise it is stopped after one minute")
	flag.StringVar(&only, "only", "", "rows whose name matches this `pattern`")
	flag.Parse()
	var err error
	if c.only, err = regexp.Compile(only); err != nil || flag.NArg() > 0 || c.runs < 3 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := c.bench(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench measures every row that is asked for and prints it as soon as it is known.
func (c *config) bench(ctx context.Context) (err error) {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	for _, p := range []*string{&c.qcheck, &c.qemu} {
		if *p, err = exec.LookPath(*p); err != nil {
			return err
		}
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	c.machine(ctx)
	fmt.Println("\n" + tableHead)
	for _, r := range rows {
		if !c.only.MatchString(r.name) {
			continue
		}
		if err := c.row(ctx, r); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	return nil
}

// machine prints what the figures were measured on.
func (c *config) machine(ctx context.Context) {
	output := func(name string, args ...string) string {
		out, err := exec.CommandContext(ctx, name, args...).Output()
		if err != nil {
			return "unknown"
		}
		first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return first
	}
	model := "unknown processor"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := regexp.MustCompile(`(?m)^model name\s*: (.*)$`).FindSubmatch(b); m != nil {
			model = string(m[1])
		}
	}
	fmt.Printf("%d × %s, %s/%s, Linux %s, %s\n", runtime.NumCPU(), model, runtime.GOOS, runtime.GOARCH, output("uname", "-r"), runtime.Version())
	fmt.Printf("%s; %s; median of %d runs in turns (least to most), page cache warm unless the row says cold\n",
		output(c.qcheck, "--version"), output(c.qemu, "--version"), c.runs)
}
