package nlsocket

import (
	"iter"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A conn has the methods that a [netlink.Conn] looks for in its socket.
type conn struct{ *Socket }

// Dial makes a connection of a netlink socket, which it takes over. Calls after Close, and
// those that wait then, return [net.ErrClosed] in a [netlink.OpError].
func Dial(fd int) (*netlink.Conn, error) {
	t, err := New(fd, true, 0)
	if err != nil {
		return nil, err
	}
	name, err := t.s.Getsockname()
	if err != nil {
		t.Close()
		return nil, err
	}
	var port uint32
	if sa, ok := name.(*unix.SockaddrNetlink); ok {
		port = sa.Pid
	}
	return netlink.NewConn(conn{t}, port), nil
}

// Send sends a message.
func (c conn) Send(m netlink.Message) error { return c.SendMessages([]netlink.Message{m}) }

// SendMessages sends messages in one datagram.
func (c conn) SendMessages(all []netlink.Message) error {
	var datagram []byte
	for _, m := range all {
		b, err := m.MarshalBinary()
		if err != nil {
			return err
		}
		datagram = append(datagram, b...)
	}
	return c.Socket.Send(datagram)
}

// Receive returns the messages of the next datagram.
func (c conn) Receive() (all []netlink.Message, err error) {
	for m, err := range c.ReceiveIter() {
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

// ReceiveIter is Receive, one after the other.
func (c conn) ReceiveIter() iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		b, err := c.Recv()
		if err != nil {
			yield(netlink.Message{}, err)
			return
		}
		Messages(b)(yield)
	}
}

func (c conn) JoinGroup(group uint32) error {
	return c.Socket.SetOption(unix.NETLINK_ADD_MEMBERSHIP, int(group))
}

func (c conn) LeaveGroup(group uint32) error {
	return c.Socket.SetOption(unix.NETLINK_DROP_MEMBERSHIP, int(group))
}

var options = map[netlink.ConnOption]int{
	netlink.PacketInfo:          unix.NETLINK_PKTINFO,
	netlink.BroadcastError:      unix.NETLINK_BROADCAST_ERROR,
	netlink.NoENOBUFS:           unix.NETLINK_NO_ENOBUFS,
	netlink.ListenAllNSID:       unix.NETLINK_LISTEN_ALL_NSID,
	netlink.CapAcknowledge:      unix.NETLINK_CAP_ACK,
	netlink.ExtendedAcknowledge: unix.NETLINK_EXT_ACK,
	netlink.GetStrictCheck:      unix.NETLINK_GET_STRICT_CHK,
}

func (c conn) SetOption(o netlink.ConnOption, enable bool) error {
	option, ok := options[o]
	if !ok {
		return os.NewSyscallError("setsockopt", unix.ENOPROTOOPT)
	}
	value := 0
	if enable {
		value = 1
	}
	return c.Socket.SetOption(option, value)
}

func (c conn) SetBPF(filter []bpf.RawInstruction) error { return c.reason(c.s.SetBPF(filter)) }
func (c conn) RemoveBPF() error                         { return c.reason(c.s.RemoveBPF()) }

func (c conn) SetReadDeadline(t time.Time) error  { return c.reason(c.s.SetReadDeadline(t)) }
func (c conn) SetWriteDeadline(t time.Time) error { return c.reason(c.s.SetWriteDeadline(t)) }

func (c conn) SetWriteBuffer(bytes int) error { return c.reason(c.s.SetWriteBuffer(bytes)) }

func (c conn) ReadBuffer() (int, error) {
	n, err := c.s.ReadBuffer()
	return n, c.reason(err)
}

func (c conn) WriteBuffer() (int, error) {
	n, err := c.s.WriteBuffer()
	return n, c.reason(err)
}

func (c conn) SyscallConn() (syscall.RawConn, error) { return c.s.SyscallConn() }
