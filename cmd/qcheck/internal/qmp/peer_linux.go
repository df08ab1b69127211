package qmp

import (
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Path gives the path of a file of QEMU's as this process can open it: relative ones are
// relative to QEMU's folder, which only the system knows.
func (c *Client) Path(file string) (string, error) {
	if filepath.IsAbs(file) {
		return file, nil
	}
	uc, ok := c.conn.(*net.UnixConn)
	if !ok {
		return "", fmt.Errorf("%s: relative to the folder of a QEMU that is not on this machine", file)
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return "", err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return "", err
	}
	if credErr != nil {
		return "", credErr
	}
	dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", cred.Pid))
	if err != nil {
		return "", fmt.Errorf("%s is relative to the folder that QEMU (process %d) was started in: %w", file, cred.Pid, err)
	}
	return dir + "/" + file, nil
}
