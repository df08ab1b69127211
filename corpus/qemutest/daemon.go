package qemutest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Disk is the node name under which Serve opens its image.
const Disk = "disk"

// qmpTimeout bounds one QMP command, and the end of a daemon that was asked to quit.
const qmpTimeout = 30 * time.Second

// Daemon is a QEMU process that is spoken to over QMP. It ends with its test at the latest. Its methods
// are for one goroutine.
type Daemon struct {
	t       testing.TB
	cmd     *exec.Cmd
	conn    net.Conn
	dec     *json.Decoder
	stderr  *lockedBuffer
	done    chan struct{} // closed when the process has ended
	waitErr error         // how it ended; valid after done
	events  []qmpMessage  // events that arrived and that nobody has asked for yet
	dir     string        // short-named, for sockets: their paths are limited to about 100 bytes
	server  bool          // the NBD server is running
	exports int           // how many exports there have been, for their names
}

type qmpMessage struct {
	Return json.RawMessage `json:"return"`
	Error  *QMPError       `json:"error"`
	Event  string          `json:"event"`
	Data   struct {
		ID string `json:"id"`
	} `json:"data"`
}

// QMPError is a command's refusal by QEMU.
type QMPError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *QMPError) Error() string { return "QEMU: " + e.Desc }

// Start starts a qemu-storage-daemon without any image.
func Start(t testing.TB) *Daemon {
	t.Helper()
	return start(t, QemuDaemon, "--chardev", "socket,id=qmp,fd=3", "--monitor", "chardev=qmp")
}

// StartSystem starts a system emulator with an empty machine (no board, no processor, the given MiB of
// memory): enough to give an image the state of a virtual machine.
func StartSystem(t testing.TB, memoryMiB int) *Daemon {
	t.Helper()
	return start(t, QemuSystem, "-machine", "none", "-m", strconv.Itoa(memoryMiB), "-nodefaults", "-display", "none", "-S",
		"-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control")
}

// StartListening is Start for a daemon with a second monitor, which listens on the socket at
// path.
func StartListening(t testing.TB, path string) *Daemon {
	t.Helper()
	return start(t, QemuDaemon, "--chardev", "socket,id=qmp,fd=3", "--monitor", "chardev=qmp",
		"--chardev", "socket,id=other,server=on,wait=off,path="+path, "--monitor", "chardev=other")
}

// StartGuest starts a system emulator as [StartSystem] does, for a machine of the given name
// and with a second monitor, which listens on the socket at path. The folder dir is the one
// that it is started in.
func StartGuest(t testing.TB, name, path, dir string) *Daemon {
	t.Helper()
	return startIn(t, dir, QemuSystem, "-name", name, "-machine", "none", "-nodefaults", "-display", "none", "-S",
		"-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control", "-qmp", "unix:"+path+",server=on,wait=off")
}

// Serve starts a qemu-storage-daemon that has the qcow2 image at path open for writing, as node Disk.
func Serve(t testing.TB, path string) *Daemon {
	t.Helper()
	d := Start(t)
	d.Open(Disk, path, nil)
	return d
}

// start runs program, which must make file descriptor 3 its QMP monitor. An inherited socket needs no
// path, no waiting for one to appear, and no listening.
func start(t testing.TB, program string, args ...string) *Daemon {
	t.Helper()
	return startIn(t, "", program, args...)
}

// startIn is start in a folder, or in the test's where it is empty.
func startIn(t testing.TB, folder, program string, args ...string) *Daemon {
	t.Helper()
	path := mustFind(t, program)
	// Not t.TempDir: its paths hold the test's name, too long for a socket.
	dir, err := os.MkdirTemp("", "qd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })

	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatalf("cannot make a socket pair: %v", err)
	}
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		t.Fatalf("cannot use a socket pair: %v", err)
	}

	d := &Daemon{t: t, conn: conn, dec: json.NewDecoder(conn), stderr: &lockedBuffer{}, done: make(chan struct{}), dir: dir}
	d.cmd = exec.Command(path, args...)
	d.cmd.Dir = folder
	d.cmd.Stdout, d.cmd.Stderr = d.stderr, d.stderr
	d.cmd.ExtraFiles = []*os.File{theirs}
	d.cmd.WaitDelay = 5 * time.Second
	started := make(chan error, 1)
	go func() { // its own goroutine, see dieWithParent
		release := dieWithParent(d.cmd)
		defer release()
		err := d.cmd.Start()
		started <- err
		if err == nil {
			d.waitErr = d.cmd.Wait()
		}
		close(d.done)
	}()
	t.Cleanup(d.cleanup)
	if err := <-started; err != nil {
		t.Fatalf("cannot start %s: %v", program, err)
	}
	var greeting qmpMessage
	if err := d.receive(&greeting); err != nil {
		t.Fatalf("no greeting from %s: %v", program, err)
	}
	d.Do("qmp_capabilities", nil)
	return d
}

// cleanup ends the process if the test has not, roughly: nobody will look at its images any more.
func (d *Daemon) cleanup() {
	d.kill()
	d.conn.Close()
	if d.t.Failed() {
		d.t.Logf("%s said:\n%s", filepath.Base(d.cmd.Path), d.stderr.String())
	}
}

// Pid is the process that holds the images.
func (d *Daemon) Pid() int { return d.cmd.Process.Pid }

// Done is closed when the process has ended.
func (d *Daemon) Done() <-chan struct{} { return d.done }

// Open opens the qcow2 image at path under a node name, for writing. options adds to or replaces the
// blockdev options, such as "read-only" or "encrypt".
func (d *Daemon) Open(node, path string, options map[string]any) {
	d.t.Helper()
	blockdev := map[string]any{
		"driver": "qcow2", "node-name": node, "discard": "unmap",
		"file": map[string]any{"driver": "file", "filename": path, "discard": "unmap"},
	}
	maps.Copy(blockdev, options)
	d.Do("blockdev-add", blockdev)
}

// Do executes a QMP command and returns what it returns; the test fails if QEMU refuses.
func (d *Daemon) Do(command string, arguments map[string]any) json.RawMessage {
	d.t.Helper()
	res, err := d.Try(command, arguments)
	if err != nil {
		d.t.Fatalf("%s %v: %v", command, arguments, err)
	}
	return res
}

// Try is Do for a command that QEMU may refuse; the error then is a *QMPError. It still fails the test when
// the process is gone or does not answer.
func (d *Daemon) Try(command string, arguments map[string]any) (json.RawMessage, error) {
	d.t.Helper()
	res, err := d.Attempt(command, arguments)
	if refused := (*QMPError)(nil); err != nil && !errors.As(err, &refused) {
		d.t.Fatalf("%s: %v", command, err)
	}
	return res, err
}

// Attempt is Try for a process that may be killed meanwhile: the error then is another one.
func (d *Daemon) Attempt(command string, arguments map[string]any) (json.RawMessage, error) {
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	if err := d.send(request); err != nil {
		return nil, err
	}
	for {
		var m qmpMessage
		if err := d.receive(&m); err != nil {
			return nil, err
		}
		switch {
		case m.Event != "":
			d.events = append(d.events, m)
		case m.Error != nil:
			return nil, m.Error
		default:
			return m.Return, nil
		}
	}
}

func (d *Daemon) send(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := d.conn.SetDeadline(time.Now().Add(qmpTimeout)); err != nil {
		return err
	}
	_, err = d.conn.Write(append(text, '\n'))
	return d.explain(err)
}

func (d *Daemon) receive(m *qmpMessage) error {
	if err := d.conn.SetDeadline(time.Now().Add(qmpTimeout)); err != nil {
		return err
	}
	return d.explain(d.dec.Decode(m))
}

// explain adds to a broken connection what the process said last.
func (d *Daemon) explain(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		select {
		case <-d.done:
			return fmt.Errorf("%s has ended: %v\n%s", filepath.Base(d.cmd.Path), d.waitErr, d.stderr.String())
		case <-time.After(time.Second):
		}
	}
	return fmt.Errorf("QMP: %w\n%s", err, d.stderr.String())
}

// waitEvent waits for the named event of the object that has the given id.
func (d *Daemon) waitEvent(name, id string) {
	d.t.Helper()
	for {
		for i, m := range d.events {
			if m.Event == name && m.Data.ID == id {
				d.events = append(d.events[:i], d.events[i+1:]...)
				return
			}
		}
		var m qmpMessage
		if err := d.receive(&m); err != nil {
			d.t.Fatalf("waiting for %s: %v", name, err)
		}
		d.events = append(d.events, m)
	}
}

// Quit ends the daemon as a hypervisor that shuts down does: images are closed, bitmaps are stored.
func (d *Daemon) Quit() {
	d.t.Helper()
	d.Do("quit", nil)
	select {
	case <-d.done:
		if d.waitErr != nil {
			d.t.Fatalf("after quit: %v\n%s", d.waitErr, d.stderr.String())
		}
	case <-time.After(qmpTimeout):
		d.kill()
		d.t.Fatalf("no end %v after quit, killed\n%s", qmpTimeout, d.stderr.String())
	}
}

// Kill9 ends the daemon with SIGKILL, as a crash of the host or an out-of-memory kill would: bitmaps that the
// image held when it was opened stay marked as in use, those added since are lost, a dirty bit stays.
func (d *Daemon) Kill9() {
	d.t.Helper()
	if !d.kill() {
		d.t.Fatalf("process %d does not end on SIGKILL", d.Pid())
	}
}

func (d *Daemon) kill() (ended bool) {
	if d.cmd.Process == nil {
		return true
	}
	// An error means that it has ended by itself, which done tells below.
	_ = d.cmd.Process.Kill()
	select {
	case <-d.done:
		return true
	case <-time.After(qmpTimeout):
		return false
	}
}

func socketPair() (ours, theirs *os.File, err error) {
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "qmp"), os.NewFile(uintptr(fds[1]), "qmp-peer"), nil
}

// lockedBuffer collects what a process prints, while others may read it.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
