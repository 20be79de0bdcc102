package sockets

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Of linux/sock_diag.h, linux/inet_diag.h and net/tcp_states.h.
const (
	sockDiagByFamily = 20
	sockDestroy      = 21

	requestLen    = 56 // inet_diag_req_v2
	requestID     = 8  // its id
	messageLen    = 72 // inet_diag_msg
	messageID     = 4  // its id
	messageInode  = 68
	identityLen   = 48 // inet_diag_sockid
	stateListen   = 10
	dumpSeq       = 1 // errors of other requests, which are not waited for, have another
	dumpBufferLen = 32 << 10
)

// List returns the TCP and UDP sockets of a stack.
func List(m Maker) (all []Socket, err error) {
	f, err := m.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for _, k := range kinds {
		messages, err := dump(int(f.Fd()), request(k))
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			all = append(all, describe(m, k.proto))
		}
	}
	return all, nil
}

// Listening counts the TCP sockets that listen in the namespace of the NETLINK_SOCK_DIAG
// socket. The kernel looks through its table of these alone, which is quick; that of
// connections, which all namespaces share, takes it a millisecond whatever is in it.
func Listening(diag int) (n int, err error) {
	for _, k := range kinds {
		if k.proto != unix.IPPROTO_TCP {
			continue
		}
		req := request(k)
		binary.NativeEndian.PutUint32(req[4:], 1<<stateListen)
		messages, err := dump(diag, req)
		if err != nil {
			return 0, err
		}
		n += len(messages)
	}
	return n, nil
}

// Destroy aborts all TCP and UDP sockets in the namespace of the NETLINK_SOCK_DIAG
// socket, in whichever process they are: peers get a reset, and calls that wait return
// an error. It does what it can: a kernel without CONFIG_INET_DIAG_DESTROY does
// nothing.
func Destroy(diag int) {
	unix.SetsockoptTimeval(diag, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
	for _, k := range kinds {
		req := request(k)
		messages, _ := dump(diag, req) // an error leaves those that came before
		for _, m := range messages {
			copy(req[requestID:], m[messageID:messageID+identityLen])
			send(diag, sockDestroy, unix.NLM_F_REQUEST, req)
		}
	}
}

// A kind is a family of addresses and a protocol.
type kind struct{ family, proto byte }

var kinds = []kind{
	{unix.AF_INET, unix.IPPROTO_TCP}, {unix.AF_INET6, unix.IPPROTO_TCP},
	{unix.AF_INET, unix.IPPROTO_UDP}, {unix.AF_INET6, unix.IPPROTO_UDP},
}

// request returns a request about the sockets of a kind in all states.
func request(k kind) []byte {
	req := make([]byte, requestLen)
	req[0], req[1] = k.family, k.proto
	binary.NativeEndian.PutUint32(req[4:], ^uint32(0))
	return req
}

// dump returns the message of each socket that the request is about.
func dump(diag int, req []byte) (messages [][]byte, err error) {
	if err := send(diag, sockDiagByFamily, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, req); err != nil {
		return nil, os.NewSyscallError("sendto", err)
	}
	buf := make([]byte, dumpBufferLen)
	for end := false; !end; {
		n, _, err := unix.Recvfrom(diag, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return messages, os.NewSyscallError("recvfrom", err)
		}
		var more [][]byte
		more, end, err = decode(buf[:n])
		if messages = append(messages, more...); err != nil {
			return messages, err
		}
	}
	return messages, nil
}

// decode returns the message of each socket in a datagram of a dump, and whether it is
// the last datagram.
func decode(b []byte) (messages [][]byte, end bool, err error) {
	for len(b) >= unix.NLMSG_HDRLEN {
		l := int(binary.NativeEndian.Uint32(b))
		if l < unix.NLMSG_HDRLEN || l > len(b) {
			return messages, true, fmt.Errorf("sock_diag: a message of %d bytes", l)
		}
		body := b[unix.NLMSG_HDRLEN:l]
		switch typ := binary.NativeEndian.Uint16(b[4:]); {
		case typ == unix.NLMSG_DONE:
			return messages, true, nil
		case typ == unix.NLMSG_ERROR && binary.NativeEndian.Uint32(b[8:]) == dumpSeq:
			errno := unix.EPROTO
			if len(body) >= 4 {
				errno = unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
			}
			return messages, true, os.NewSyscallError("sock_diag", errno)
		case typ == sockDiagByFamily && len(body) >= messageLen:
			messages = append(messages, append([]byte(nil), body[:messageLen]...))
		}
		b = b[min((l+3)&^3, len(b)):]
	}
	return messages, false, nil
}

func send(diag int, typ, flags uint16, body []byte) error {
	msg := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(body))
	binary.NativeEndian.PutUint32(msg, uint32(cap(msg)))
	binary.NativeEndian.PutUint16(msg[4:], typ)
	binary.NativeEndian.PutUint16(msg[6:], flags)
	if typ == sockDiagByFamily {
		binary.NativeEndian.PutUint32(msg[8:], dumpSeq)
	}
	return unix.Sendto(diag, append(msg, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// describe reads the message of a socket.
func describe(m []byte, proto byte) Socket {
	addr := func(at int, port uint16) netip.AddrPort {
		ip := netip.AddrFrom16([16]byte(m[at:])).Unmap()
		if m[0] == unix.AF_INET {
			ip = netip.AddrFrom4([4]byte(m[at:]))
		}
		return netip.AddrPortFrom(ip, port)
	}
	return Socket{
		TCP:       proto == unix.IPPROTO_TCP,
		Listening: proto == unix.IPPROTO_TCP && m[1] == stateListen,
		Open:      binary.NativeEndian.Uint32(m[messageInode:]) != 0,
		Local:     addr(8, binary.BigEndian.Uint16(m[messageID:])),
		Remote:    addr(24, binary.BigEndian.Uint16(m[messageID+2:])),
	}
}
