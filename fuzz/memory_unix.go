//go:build unix

package fuzz

import (
	"os"
	"runtime"
	"syscall"
)

// peakMemory is what a process that has ended took at most, in bytes.
func peakMemory(p *os.ProcessState) int64 {
	usage, ok := p.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	if runtime.GOOS == "darwin" {
		return int64(usage.Maxrss)
	}
	return int64(usage.Maxrss) << 10
}
