package main

import (
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// machineMemory is the memory of the machine in bytes, or of the container where
// that has less, or what a limit of addresses leaves of it; 0 where it is not known.
func machineMemory() uint64 {
	var total uint64
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		total = uint64(info.Totalram) * uint64(info.Unit)
	}
	for _, limit := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		text, err := os.ReadFile(limit)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseUint(string(bytes.TrimSpace(text)), 10, 63); err == nil && n > 0 && (total == 0 || n < total) {
			total = n
		}
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_AS, &limit) == nil && limit.Cur != unix.RLIM_INFINITY {
		if left := addressesLeft(limit); total == 0 || left < total {
			total = left
		}
	}
	return total
}

// addressesLeft is how many bytes a limit of addresses (ulimit -v) leaves. The runtime
// ends the program where there are none left, and it has taken many more by now than it
// uses.
func addressesLeft(limit unix.Rlimit) uint64 {
	text, _ := os.ReadFile("/proc/self/statm")
	pages, _, _ := bytes.Cut(text, []byte{' '})
	used, _ := strconv.ParseUint(string(pages), 10, 40)
	used *= uint64(os.Getpagesize())
	return max(limit.Cur, used+1) - used
}
