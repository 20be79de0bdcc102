package soak

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vdestack/vdestack/internal/dns/dnstest"
	"golang.org/x/sys/unix"
)

// nameServer is the first DNS server of every stack, in the stack itself. It exists only
// while a task looks names up. Listeners with random ports never get its port.
var nameServer = netip.MustParseAddrPort("127.0.0.1:5300")

// nameTimeout is how long a stack waits for the addresses of one family after it has those
// of the other.
const nameTimeout = 3 * time.Second

// doNames serves names in a stack, and looks them up there. Some answers are truncated in
// a packet and complete in a stream, some names are unknown.
func (t *task) doNames(m *member) error {
	pc, err := m.st.ListenPacket("udp4", nameServer.String())
	if errors.Is(err, unix.EADDRINUSE) {
		return errSkip // another task serves names
	}
	if err != nil {
		return err
	}
	ln, err := m.st.Listen("tcp4", nameServer.String())
	if err != nil {
		pc.Close()
		if errors.Is(err, unix.EADDRINUSE) {
			// A child that has not executed its program yet has a copy of the last
			// task's listener.
			return errSkip
		}
		return err
	}
	return serving(pc, net.ErrClosed, func() error { return serveNames(pc) }, func() error {
		return serving(ln, net.ErrClosed, func() error { return serveStreams(ln, t.deadline()) }, func() error {
			return t.lookUp(m)
		})
	})
}

func (t *task) lookUp(m *member) error {
	for range 1 + t.rng.IntN(10) {
		u := t.unique()
		name := fmt.Sprintf("%x.%s.test", u, []string{"short", "long", "unknown"}[t.rng.IntN(3)])
		var want, got []netip.Addr
		if !strings.Contains(name, "unknown") {
			want = addressesOf(name + ".")
		}
		var err error
		begin := time.Now()
		if t.chance(3) {
			got, err = m.st.Resolver().LookupNetIP(t.ctx, "ip", name)
			err = resolved(err)
		} else {
			got, err = m.st.LookupNetIP(t.ctx, "ip", name)
		}
		if dnsErr, ok := errors.AsType[*net.DNSError](err); ok && dnsErr.IsNotFound && want == nil {
			continue
		}
		if err != nil {
			return err
		}
		for i := range got {
			got[i] = got[i].Unmap()
		}
		slices.SortFunc(got, netip.Addr.Compare)
		if len(got) < len(want) && !slices.ContainsFunc(got, func(a netip.Addr) bool { return !slices.Contains(want, a) }) {
			// There is only one family: the other was late, or the stack was closed
			// between them.
			if time.Since(begin) >= nameTimeout {
				continue
			}
			return fmt.Errorf("%s is only %v, want %v: %w", name, got, want, io.ErrUnexpectedEOF)
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("%s is %v, want %v: %w", name, got, want, errCorrupt)
		}
	}
	return nil
}

// resolved restores an error of a [net.Resolver], which keeps only the text of the
// original.
func resolved(err error) error {
	if err != nil && strings.Contains(err.Error(), net.ErrClosed.Error()) {
		return wrap(err.Error(), net.ErrClosed)
	}
	return err
}

// addressesOf returns the addresses of an absolute name, in order. The name begins with
// the bytes in which they differ.
func addressesOf(name string) []netip.Addr {
	var u [4]byte
	fmt.Sscanf(name, "%02x%02x%02x%02x", &u[0], &u[1], &u[2], &u[3])
	return []netip.Addr{netip.AddrFrom4(u), netip.AddrFrom16([16]byte{0: 0xfd, 1: 3, 12: u[0], 13: u[1], 14: u[2], 15: u[3]})}
}

// answer returns the answer to a query. In a packet the answer for a long name is
// truncated.
func answer(query []byte, packet bool) []byte {
	truncated := false
	a := dnstest.Answer(query, func(name string) []string {
		addrs := addressesOf(name)
		switch truncated = packet && strings.Contains(name, ".long."); {
		case strings.Contains(name, ".unknown."):
			return nil
		case truncated:
			return []string{""}
		}
		return []string{addrs[0].String(), addrs[1].String()}
	})
	if truncated {
		a[2] |= 1 << 1 // TC, RFC 1035 section 4.1.1
	}
	return a
}

func serveNames(pc net.PacketConn) error {
	buf := make([]byte, 1<<12)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return err
		}
		// The client may be gone.
		if _, err := pc.WriteTo(answer(buf[:n], true), from); errors.Is(err, net.ErrClosed) {
			return err
		}
	}
}

// serveStreams answers one query of each connection. Each message follows its length, RFC
// 1035 section 4.2.2.
func serveStreams(ln net.Listener, deadline time.Time) error {
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		c.SetDeadline(deadline)
		var length uint16
		query := make([]byte, 1<<12)
		if binary.Read(c, binary.BigEndian, &length) == nil && int(length) <= len(query) {
			if _, err := io.ReadFull(c, query[:length]); err == nil {
				a := answer(query[:length], false)
				c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
			}
		}
		c.Close()
	}
}
