package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus/guestdisk"
	"github.com/qcheck/qcheck/corpus/qemutest"
)

var rescueLarge = flag.String("rescue.large", "", "measure the rescue of a disk of 1 TiB with this qcheck")

// TestRescueLarge measures what it takes to look through an image of 1 TiB without header
// and L1 table, against reading what of it is stored.
func TestRescueLarge(t *testing.T) {
	if *rescueLarge == "" {
		t.Skip("takes some minutes: make rescue-bench")
	}
	program, err := filepath.Abs(*rescueLarge)
	require.NoError(t, err)
	for _, fs := range []guestdisk.FS{guestdisk.Ext4, guestdisk.XFS} {
		dir := t.TempDir()
		d := guestdisk.Build(t, dir, guestdisk.Spec{FS: fs, Size: 1 << 40, Data: 512 << 20})
		broken, out := filepath.Join(dir, "broken.qcow2"), filepath.Join(dir, "out.qcow2")
		gone := guestdisk.HeaderAndL1.Do(t, d, broken)
		stored, reading := readStored(t, broken)
		cmd := exec.Command(program, "rescue", broken, "-o", out)
		start := time.Now()
		text, err := cmd.CombinedOutput()
		took := time.Since(start)
		peak := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
		if code := cmd.ProcessState.ExitCode(); code != 0 && code != 2 {
			t.Fatalf("%v\n%s", err, text)
		}
		raw := filepath.Join(dir, "out.raw")
		qemutest.Img(t, "convert", "-f", "qcow2", "-O", "raw", out, raw)
		s := d.Compare(t, raw, gone)
		fmt.Printf("| %s | %d MiB | %.1f s | %.1f s | %d MiB | %.2f %% | %d |\n", fs, stored>>20, reading.Seconds(), took.Seconds(), peak>>20, s.Share(), s.Wrong)
		assert.Zero(t, s.Wrong)
		assert.LessOrEqual(t, peak, int64(256<<20))
	}
}

// readStored reads what of a file is stored.
func readStored(t *testing.T, path string) (n int64, took time.Duration) {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	info, err := f.Stat()
	require.NoError(t, err)
	start := time.Now()
	buf := make([]byte, 1<<20)
	for at := int64(0); at < info.Size(); {
		at, err = f.Seek(at, 3) // SEEK_DATA
		if err != nil {
			break
		}
		end, err := f.Seek(at, 4) // SEEK_HOLE
		require.NoError(t, err)
		c, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{io.NewSectionReader(f, at, end-at)}, buf)
		require.NoError(t, err)
		n += c
		at = end
	}
	return n, time.Since(start)
}
