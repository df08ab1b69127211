// Package qmp asks a running QEMU, a virtual machine or a storage daemon, for its block
// nodes and their dirty bitmaps, over its QMP socket. It asks and never changes anything.
//
// A monitor speaks to one client at a time: QEMU lets further ones wait. So every answer is
// waited for at most [Timeout], and a VM that libvirt manages needs a second monitor.
package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// Timeout is how long QEMU is waited for, from the greeting to each answer.
const Timeout = 10 * time.Second

// maxAnswer bounds one answer, in bytes. A VM with hundreds of disks takes less than one
// MiB.
const maxAnswer = 64 << 20

// ErrBusy means that nobody answers on the socket: another program speaks to QEMU there.
var ErrBusy = errors.New("no answer: another program is using this monitor (a VM of libvirt's needs one of its own for qcheck)")

// Error is QEMU's refusal of a command.
type Error struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *Error) Error() string { return "QEMU: " + e.Desc }

// Node is a block node that has an image open.
type Node struct {
	Name     string `json:"node-name"`
	Driver   string `json:"drv"`
	ReadOnly bool   `json:"ro"`
	// File is the file's name as QEMU has it; relative to the folder QEMU was started in.
	File    string   `json:"file"`
	Bitmaps []Bitmap `json:"dirty-bitmaps"`
}

// Bitmap is a dirty bitmap in the memory of QEMU.
type Bitmap struct {
	Name        string `json:"name"`
	Granularity uint64 `json:"granularity"` // bytes
	Count       uint64 `json:"count"`       // dirty bytes
	// Recording: writes are recorded. Busy: a job or an export uses it, and nobody else
	// can. Persistent: it is stored in the image when that is closed. Inconsistent: it was
	// not stored the last time, and can only be removed.
	Recording    bool `json:"recording"`
	Busy         bool `json:"busy"`
	Persistent   bool `json:"persistent"`
	Inconsistent bool `json:"inconsistent"`
}

// Client is a connection to a monitor. Its methods are for one goroutine.
type Client struct {
	conn net.Conn
	dec  *json.Decoder
	left *io.LimitedReader
}

// Dial connects to the monitor at a socket and greets it.
func Dial(ctx context.Context, socket string) (*Client, error) {
	d := net.Dialer{Timeout: Timeout}
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		if oe, ok := errors.AsType[*net.OpError](err); ok {
			err = oe.Err
		}
		return nil, fmt.Errorf("%s: %w", socket, err)
	}
	c := &Client{conn: conn, left: &io.LimitedReader{R: conn}}
	c.dec = json.NewDecoder(c.left)
	if err := c.greet(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("%s: %w", socket, err)
	}
	return c, nil
}

func (c *Client) greet() error {
	var greeting struct {
		QMP json.RawMessage `json:"QMP"`
	}
	if err := c.receive(&greeting); err != nil {
		return err
	}
	if greeting.QMP == nil {
		return errors.New("not a QMP monitor: it does not greet as one")
	}
	return c.execute("qmp_capabilities", nil)
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Conn is the connection, to ask the system who is at its other end.
func (c *Client) Conn() net.Conn { return c.conn }

// receive reads one message.
func (c *Client) receive(into any) error {
	if err := c.conn.SetReadDeadline(time.Now().Add(Timeout)); err != nil {
		return err
	}
	c.left.N = maxAnswer
	err := c.dec.Decode(into)
	var ne net.Error
	switch {
	case errors.As(err, &ne) && ne.Timeout():
		return ErrBusy
	case errors.Is(err, io.EOF) && c.left.N <= 0:
		return fmt.Errorf("an answer of more than %d bytes", maxAnswer)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("QEMU has closed the connection")
	}
	return err
}

// execute runs a command; result may be nil. Events that arrive meanwhile are passed over.
func (c *Client) execute(command string, result any) error {
	text, err := json.Marshal(map[string]any{"execute": command})
	if err != nil {
		return err
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(Timeout)); err != nil {
		return err
	}
	if _, err := c.conn.Write(append(text, '\n')); err != nil {
		return err
	}
	for until := time.Now().Add(Timeout); ; {
		var m struct {
			Return json.RawMessage `json:"return"`
			Error  *Error          `json:"error"`
			Event  string          `json:"event"`
		}
		switch err := c.receive(&m); {
		case err != nil:
			return fmt.Errorf("%s: %w", command, err)
		case m.Error != nil:
			return fmt.Errorf("%s: %w", command, m.Error)
		case m.Event != "":
			if time.Now().After(until) {
				return fmt.Errorf("%s: %w", command, ErrBusy)
			}
		case result == nil:
			return nil
		default:
			return json.Unmarshal(m.Return, result)
		}
	}
}

// Guest is the name of the virtual machine; empty for one without a name, and for a storage
// daemon.
func (c *Client) Guest() (string, error) {
	var name struct {
		Name string `json:"name"`
	}
	err := c.execute("query-name", &name)
	if e, ok := errors.AsType[*Error](err); ok && e.Class == "CommandNotFound" {
		return "", nil
	}
	return name.Name, err
}

// Nodes gives the nodes that have a qcow2 image open.
func (c *Client) Nodes() ([]Node, error) {
	var all []Node
	if err := c.execute("query-named-block-nodes", &all); err != nil {
		return nil, err
	}
	var nodes []Node
	for _, n := range all {
		if n.Driver == "qcow2" {
			n.File = fileName(n.File)
			nodes = append(nodes, n)
		}
	}
	return nodes, nil
}

// Devices gives the name of the node that each device, or each backend of one, has at its
// top: what people call a disk is more often that than a node.
func (c *Client) Devices() (map[string]string, error) {
	var all []struct {
		Device   string `json:"device"`
		QDev     string `json:"qdev"`
		Inserted *struct {
			Node string `json:"node-name"`
		} `json:"inserted"`
	}
	err := c.execute("query-block", &all)
	if e, ok := errors.AsType[*Error](err); ok && e.Class == "CommandNotFound" {
		return nil, nil
	}
	names := make(map[string]string)
	for _, d := range all {
		if d.Inserted == nil {
			continue
		}
		for _, name := range []string{d.Device, d.QDev} {
			if name != "" {
				names[name] = d.Inserted.Node
			}
		}
	}
	return names, err
}

// fileName gives the path in a file's name: QEMU writes a node that was opened with unusual
// options as "json:{…}".
func fileName(name string) string {
	text, ok := strings.CutPrefix(name, "json:")
	if !ok {
		return strings.TrimPrefix(name, "file:")
	}
	var options any
	if json.Unmarshal([]byte(text), &options) != nil {
		return name
	}
	for range 16 { // a chain of filters is shorter
		m, ok := options.(map[string]any)
		if !ok {
			break
		}
		if file, ok := m["filename"].(string); ok && (m["driver"] == "file" || m["driver"] == "host_device") {
			return file
		}
		options = m["file"]
	}
	return name
}
