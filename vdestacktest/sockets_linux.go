package vdestacktest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"

	"github.com/vdestack/vdestack"
	"golang.org/x/sys/unix"
)

// Of linux/sock_diag.h, linux/inet_diag.h and net/tcp_states.h.
const (
	sockDiagByFamily = 20
	requestLen       = 56 // inet_diag_req_v2
	messageLen       = 72 // inet_diag_msg
	stateListen      = 10
)

// sockets lists the TCP and UDP sockets of a stack that a process has open. Those
// that the kernel alone still has, such as connections in TIME_WAIT, have no inode.
func sockets(s *vdestack.Stack) (all []string, err error) {
	f, err := s.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fd := int(f.Fd())
	for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
			if err := ask(fd, family, proto); err != nil {
				return nil, err
			}
			if all, err = receive(fd, proto, all); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

func ask(fd int, family, proto byte) error {
	b := make([]byte, unix.NLMSG_HDRLEN+requestLen)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	request := b[unix.NLMSG_HDRLEN:]
	request[0], request[1] = family, proto
	binary.NativeEndian.PutUint32(request[4:], ^uint32(0)) // all states
	return os.NewSyscallError("sendto", unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
}

// receive appends the sockets of a dump.
func receive(fd int, proto byte, all []string) ([]string, error) {
	buf := make([]byte, 32<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("recvfrom", err)
		}
		for b := buf[:n]; len(b) >= unix.NLMSG_HDRLEN; {
			l := int(binary.NativeEndian.Uint32(b))
			typ := binary.NativeEndian.Uint16(b[4:])
			switch {
			case l < unix.NLMSG_HDRLEN || l > len(b):
				return nil, fmt.Errorf("sock_diag: a message of %d bytes", l)
			case typ == unix.NLMSG_DONE:
				return all, nil
			case typ == unix.NLMSG_ERROR && l >= unix.NLMSG_HDRLEN+4:
				return nil, os.NewSyscallError("sock_diag", unix.Errno(-int32(binary.NativeEndian.Uint32(b[unix.NLMSG_HDRLEN:]))))
			case typ == sockDiagByFamily && l >= unix.NLMSG_HDRLEN+messageLen:
				if name := describe(b[unix.NLMSG_HDRLEN:l], proto); name != "" {
					all = append(all, name)
				}
			}
			b = b[min((l+3)&^3, len(b)):]
		}
	}
}

// describe names a socket; empty if no process has it.
func describe(m []byte, proto byte) string {
	if binary.NativeEndian.Uint32(m[68:]) == 0 { // idiag_inode
		return ""
	}
	addr := func(at int, port uint16) netip.AddrPort {
		ip, _ := netip.AddrFromSlice(m[at : at+16])
		if m[0] == unix.AF_INET {
			ip, _ = netip.AddrFromSlice(m[at : at+4])
		}
		return netip.AddrPortFrom(ip.Unmap(), port)
	}
	local := addr(8, binary.BigEndian.Uint16(m[4:]))
	remote := addr(24, binary.BigEndian.Uint16(m[6:]))
	switch {
	case proto == unix.IPPROTO_TCP && m[1] == stateListen:
		return fmt.Sprintf("tcp %v, which listens", local)
	case proto == unix.IPPROTO_TCP:
		return fmt.Sprintf("tcp %v to %v", local, remote)
	case remote.Port() != 0:
		return fmt.Sprintf("udp %v to %v", local, remote)
	}
	return fmt.Sprintf("udp %v", local)
}
