package remote

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"
)

// The NBD protocol, as far as a reader needs it (the protocol's doc/proto.md: fixed newstyle
// negotiation, NBD_OPT_GO, simple replies). All numbers are big-endian.
const (
	nbdMagic       = 0x4e42444d41474943 // "NBDMAGIC"
	nbdOption      = 0x49484156454f5054 // "IHAVEOPT"
	nbdOptionReply = 0x3e889045565a9
	nbdRequest     = 0x25609513
	nbdReply       = 0x67446698

	nbdFixedNewstyle = 1 << 0
	nbdNoZeroes      = 1 << 1

	nbdOptGo     = 7
	nbdRepAck    = 1
	nbdRepInfo   = 3
	nbdRepErrors = 1 << 31
	nbdInfo      = 0 // NBD_INFO_EXPORT: u64 size, u16 flags
	nbdCmdRead   = 0
)

// nbdTime is how long the server may take for an answer, nbdMost how many bytes are asked
// for at once: no server has to take more than 32 MiB. nbdDefaultPort is IANA's.
const (
	nbdTime        = 60 * time.Second
	nbdMost        = 1 << 20
	nbdDefaultPort = "10809"
)

// nbdSource reads an export. One request after the other is sent, and then all answers are
// read.
type nbdSource struct {
	mu     sync.Mutex
	conn   net.Conn
	cookie uint64
	broken error // what ended the connection
}

// openNBD connects to nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH.
func openNBD(ctx context.Context, u *url.URL) (source, int64, error) {
	network, address := "tcp", u.Host
	if u.Scheme == "nbd+unix" {
		network, address = "unix", u.Query().Get("socket")
		if address == "" {
			return nil, 0, errors.New("a path is missing: nbd+unix:///EXPORT?socket=PATH")
		}
	} else if u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), nbdDefaultPort)
	}
	d := net.Dialer{Timeout: nbdTime}
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, 0, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	n := &nbdSource{conn: conn}
	size, err := n.negotiate(strings.TrimPrefix(u.Path, "/"))
	if err != nil {
		stop()
		conn.Close()
		return nil, 0, err
	}
	return n, size, nil
}

func (n *nbdSource) Close() error { return n.conn.Close() }

// negotiate asks for an export and gives its size.
func (n *nbdSource) negotiate(export string) (int64, error) {
	if err := n.conn.SetDeadline(time.Now().Add(nbdTime)); err != nil {
		return 0, err
	}
	var hello struct {
		Magic, Option uint64
		Flags         uint16
	}
	if err := binary.Read(n.conn, binary.BigEndian, &hello); err != nil {
		return 0, fmt.Errorf("not an NBD server: %w", err)
	}
	if hello.Magic != nbdMagic || hello.Option != nbdOption || hello.Flags&nbdFixedNewstyle == 0 {
		return 0, errors.New("not an NBD server of today's protocol (fixed newstyle)")
	}
	request := binary.BigEndian.AppendUint32(nil, uint32(hello.Flags&(nbdFixedNewstyle|nbdNoZeroes)))
	request = binary.BigEndian.AppendUint64(request, nbdOption)
	request = binary.BigEndian.AppendUint32(request, nbdOptGo)
	request = binary.BigEndian.AppendUint32(request, uint32(4+len(export)+2))
	request = binary.BigEndian.AppendUint32(request, uint32(len(export)))
	request = append(request, export...)
	request = binary.BigEndian.AppendUint16(request, 0) // no further information
	if _, err := n.conn.Write(request); err != nil {
		return 0, err
	}
	return n.optionReplies(export)
}

// optionReplies reads the answers to NBD_OPT_GO up to the last.
func (n *nbdSource) optionReplies(export string) (size int64, err error) {
	size = -1
	for {
		var reply struct {
			Magic             uint64
			Option, Type, Len uint32
		}
		if err := binary.Read(n.conn, binary.BigEndian, &reply); err != nil {
			return 0, err
		}
		if reply.Magic != nbdOptionReply || reply.Option != nbdOptGo || reply.Len > 1<<16 {
			return 0, errors.New("the NBD server answers what was not asked")
		}
		data := make([]byte, reply.Len)
		if _, err := io.ReadFull(n.conn, data); err != nil {
			return 0, err
		}
		switch {
		case reply.Type&nbdRepErrors != 0:
			return 0, fmt.Errorf("the NBD server has no export %q for us (error 0x%x)", export, reply.Type)
		case reply.Type == nbdRepAck && size < 0:
			return 0, errors.New("the NBD server does not say how large the export is")
		case reply.Type == nbdRepAck:
			return size, nil
		case reply.Type == nbdRepInfo && len(data) >= 12 && binary.BigEndian.Uint16(data) == nbdInfo:
			if size = int64(binary.BigEndian.Uint64(data[2:])); size < 0 {
				return 0, errors.New("the NBD server says that the export is larger than files can be")
			}
		}
	}
}

// read reads the parts.
func (n *nbdSource) read(_ context.Context, parts []part) error {
	var small []part
	for _, p := range parts {
		for len(p.data) > 0 {
			k := min(len(p.data), nbdMost)
			small = append(small, part{p.off, p.data[:k]})
			p.off, p.data = p.off+int64(k), p.data[k:]
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.broken == nil {
		n.broken = n.exchange(small)
	}
	return n.broken
}

// exchange sends requests and reads their answers, in the order in which they come.
func (n *nbdSource) exchange(parts []part) error {
	if err := n.conn.SetDeadline(time.Now().Add(nbdTime)); err != nil {
		return err
	}
	waiting := make(map[uint64][]byte, len(parts))
	var requests []byte
	for _, p := range parts {
		n.cookie++
		waiting[n.cookie] = p.data
		requests = binary.BigEndian.AppendUint32(requests, nbdRequest)
		requests = binary.BigEndian.AppendUint32(requests, nbdCmdRead) // flags and type
		requests = binary.BigEndian.AppendUint64(requests, n.cookie)
		requests = binary.BigEndian.AppendUint64(requests, uint64(p.off))
		requests = binary.BigEndian.AppendUint32(requests, uint32(len(p.data)))
	}
	if _, err := n.conn.Write(requests); err != nil {
		return err
	}
	for len(waiting) > 0 {
		var reply struct {
			Magic, Error uint32
			Cookie       uint64
		}
		if err := binary.Read(n.conn, binary.BigEndian, &reply); err != nil {
			return err
		}
		data, ok := waiting[reply.Cookie]
		switch {
		case reply.Magic != nbdReply || !ok:
			return errors.New("the NBD server answers what was not asked")
		case reply.Error != 0:
			return fmt.Errorf("the NBD server cannot read (error %d)", reply.Error)
		}
		if _, err := io.ReadFull(n.conn, data); err != nil {
			return err
		}
		delete(waiting, reply.Cookie)
	}
	return nil
}
