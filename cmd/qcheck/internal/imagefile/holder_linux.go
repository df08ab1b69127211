package imagefile

import (
	"bytes"
	"fmt"
	"iter"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// holderPatience bounds the search for a lock's holder: on a host with very many
// open files a good message is not worth more than that. Tests have more of it.
var holderPatience = 500 * time.Millisecond

// inode names our file as the kernel does where it lists locks: device and inode
// number. What stat tells may differ (a Btrfs subvolume has a device number of its
// own there), so it is read off a lock of ours if we hold one.
func (l locks) inode() string {
	var name string
	_ = l.conn.Control(func(fd uintptr) {
		if text, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd)); err == nil {
			for entry := range lockEntries(text) {
				name = entry.inode
			}
		}
		var st unix.Stat_t
		if name == "" && unix.Fstat(int(fd), &st) == nil {
			name = fmt.Sprintf("%02x:%02x:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)), st.Ino)
		}
	})
	return name
}

// holder names a process that holds a lock on byte b of our file, of which inode
// is the name; or nil. The kernel does not tell who holds an open file
// description lock, but it lists the locks of each descriptor of each process
// that we may look at. Our own locks must have been given back.
func (l locks) holder(inode string, b int64) *Process {
	lk, err := l.do(unix.F_OFD_GETLK, unix.F_WRLCK, b, 1)
	if err != nil || lk.Type == unix.F_UNLCK {
		return nil // it is gone already
	}
	if lk.Pid > 0 {
		return process(strconv.Itoa(int(lk.Pid))) // a process's lock, not a description's
	}
	deadline := time.Now().Add(holderPatience)

	// Only text made by the kernel is read here. Following the links in
	// /proc/PID/fd would touch other programs' files, and one on a dead network
	// file system would hold us up.
	procs, err := filepath.Glob("/proc/[0-9]*/fdinfo")
	if err != nil {
		return nil
	}
	for _, dir := range procs {
		pid := filepath.Base(filepath.Dir(dir))
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // another user's, or gone
		}
		for _, e := range entries {
			if time.Now().After(deadline) {
				return nil
			}
			text, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				continue
			}
			for entry := range lockEntries(text) {
				if entry.inode == inode && entry.first <= b && b <= entry.last {
					return process(pid)
				}
			}
		}
	}
	return nil
}

// lockEntry is one lock of a file descriptor: from its first to its last byte.
type lockEntry struct {
	inode       string
	first, last int64
}

// lockEntries gives the locks that a text of /proc/PID/fdinfo lists, as in
//
//	lock:	1: OFDLCK  ADVISORY  READ -1 fe:00:1234 100 101
//
// where the last byte may also be EOF. What is written otherwise is passed over.
func lockEntries(text []byte) iter.Seq[lockEntry] {
	return func(yield func(lockEntry) bool) {
		for line := range bytes.Lines(text) {
			rest, ok := bytes.CutPrefix(line, []byte("lock:"))
			w := strings.Fields(string(rest))
			if !ok || len(w) < 8 {
				continue
			}
			first, err := strconv.ParseInt(w[6], 10, 64)
			last := int64(math.MaxInt64)
			if err == nil && w[7] != "EOF" {
				last, err = strconv.ParseInt(w[7], 10, 64)
			}
			if err == nil && !yield(lockEntry{inode: w[5], first: first, last: last}) {
				return
			}
		}
	}
}

func process(pid string) *Process {
	n, err := strconv.Atoi(pid)
	if err != nil {
		return nil
	}
	name, err := os.ReadFile("/proc/" + pid + "/comm")
	if err != nil {
		return &Process{PID: n}
	}
	p := &Process{PID: n, Name: strings.TrimSpace(string(name))}
	// Of other programs -name may be anything.
	if strings.HasPrefix(p.Name, "qemu") || strings.HasPrefix(p.Name, "kvm") || strings.HasPrefix(p.Name, "CPU ") {
		if line, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil {
			p.Guest = guestName(line)
		}
	}
	return p
}

// guestName gives the name of the virtual machine in a command line of QEMU's, of which
// each word ends with a NUL: -name NAME or -name guest=NAME, with further options behind
// commas. A comma in a name is doubled.
func guestName(line []byte) string {
	words := strings.Split(string(line), "\x00")
	for i, w := range words[:len(words)-1] {
		if w != "-name" && w != "--name" {
			continue
		}
		const comma = "\x00"
		value, _, _ := strings.Cut(strings.ReplaceAll(words[i+1], ",,", comma), ",")
		return strings.ReplaceAll(strings.TrimPrefix(value, "guest="), comma, ",")
	}
	return ""
}
