package main

// leastMemory is what counting may take on the smallest machine, in bytes.
const leastMemory = 64 << 20

// defaultMemory is the bound on the memory for counting references where --memory
// gives none: half of what the machine, or the container, has. It is not known on
// every system; 0 is no bound.
func defaultMemory() int64 { return shareOf(machineMemory()) }

// shareOf is half of some memory, in bytes, and not next to nothing.
func shareOf(total uint64) int64 {
	if total == 0 {
		return 0
	}
	return int64(max(total/2, leastMemory))
}
