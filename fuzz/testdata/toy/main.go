// Command toy is a parser that is broken on purpose, for the tests of the fuzzer:
// it reads a header and believes it.
//
//	toy HOW IMAGE
package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// What it cannot take.
const (
	big  = 1 << 16 // entries of an L1 table
	many = 1 << 10 // snapshots
)

func main() { os.Exit(toy(os.Args[1], os.Args[2])) }

func toy(how, path string) int {
	if how == "stuck" {
		time.Sleep(time.Minute)
	}
	f, err := os.Open(path)
	if err != nil {
		return 1
	}
	defer f.Close()
	b := make([]byte, 72)
	if _, err := io.ReadFull(f, b); err != nil {
		return 1
	}
	clusterBits, l1Size, snapshots := binary.BigEndian.Uint32(b[20:]), binary.BigEndian.Uint32(b[36:]), binary.BigEndian.Uint32(b[60:])
	if clusterBits > 21 || clusterBits < 9 {
		return 1
	}
	switch {
	case how == "verdict" && l1Size >= big:
		return 2
	case how == "verdict":
		return 0
	case how == "sanitized" && l1Size >= big:
		fmt.Fprintf(os.Stderr, "==%d==ERROR: AddressSanitizer: heap-buffer-overflow on address %p\n", os.Getpid(), &b[0])
		return 1
	case how == "slow" && snapshots >= many:
		time.Sleep(time.Minute)
	case how == "slow child" && snapshots >= many:
		// The child holds the pipe open, and is still there when its parent is not.
		child := exec.Command(os.Args[0], "slow", path)
		child.Stderr = os.Stderr
		child.Run()
	case how == "greedy" && snapshots >= many:
		hold(256 << 20)
	case how == "greedy child" && snapshots >= many:
		exec.Command(os.Args[0], "greedy", path).Run()
	case how == "fragile" && l1Size >= big, how == "fragile twice" && l1Size >= big:
		_ = make([]byte, 16)[l1Size]
	case how == "fragile twice" && snapshots >= many:
		_ = make([]byte, 16)[snapshots]
	}
	return 0
}

// hold takes memory and keeps it.
func hold(n int) {
	b := make([]byte, n)
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	time.Sleep(time.Minute)
	os.Exit(int(b[0]))
}
