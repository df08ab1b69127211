package process

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// watchEvery is how often the memory of a program is looked at. In that time it can
// take some hundred MiB more.
const watchEvery = 20 * time.Millisecond

// watchMemory looks at a process and those that it has started until the context
// ends or one of them has taken more memory than the limit. It gives the most that
// one has taken, in bytes.
func watchMemory(ctx context.Context, pid int, limit int64) int64 {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	most := int64(0)
	for most <= limit {
		select {
		case <-ctx.Done():
			return most
		case <-tick.C:
			most = max(most, familyMemory(strconv.Itoa(pid), maxFamily))
		}
	}
	return most
}

// maxFamily bounds the processes that are looked at: a program may start no end of
// them.
const maxFamily = 256

// familyMemory is the most memory that a process or one of its descendants has taken
// so far. Those of which the kernel tells nothing count as taking none.
func familyMemory(pid string, most int) int64 {
	peak := int64(0)
	for queue := []string{pid}; len(queue) > 0 && most > 0; most-- {
		pid, queue = queue[0], queue[1:]
		peak = max(peak, highWater(pid))
		// Children belong to the thread that started them.
		paths, _ := filepath.Glob(fmt.Sprintf("/proc/%s/task/*/children", pid))
		for _, path := range paths {
			text, _ := os.ReadFile(path) // it may have ended
			for _, child := range bytes.Fields(text) {
				queue = append(queue, string(child))
			}
		}
	}
	return peak
}

// highWater is the most memory that a process has taken so far, in bytes.
func highWater(pid string) int64 {
	text, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0
	}
	_, text, ok := bytes.Cut(text, []byte("\nVmHWM:"))
	if !ok {
		return 0
	}
	words := bytes.Fields(text)
	if len(words) == 0 {
		return 0
	}
	kib, err := strconv.ParseInt(string(words[0]), 10, 53)
	if err != nil {
		return 0
	}
	return kib << 10
}
