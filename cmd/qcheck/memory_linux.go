package main

import (
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// machineMemory is the memory of the machine in bytes, or of the container where
// that has less; 0 where it is not known.
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
	return total
}
