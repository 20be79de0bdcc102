package dns

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// A server is one of Config.Servers.
type server struct {
	addr string // "10.0.0.1:53"
	// plain says that the next query is without EDNS: the last one succeeded without
	// it, or failed with it.
	plain atomic.Bool
}

// ask asks the servers one after the other, until one replies with records or says that the
// name does not exist.
func (c *Client) ask(ctx context.Context, q dnsmessage.Question) (reply, *net.DNSError) {
	if r, ok := c.cache.get(q); ok {
		return r, nil
	}
	failed := dnsError(errNoServers, "")
	left := c.attempts * len(c.servers)
	for range c.attempts {
		for _, server := range c.servers {
			if err := ctx.Err(); err != nil {
				return reply{}, dnsError(err, failed.Server)
			}
			r, err := c.try(ctx, server, q, c.share(ctx, left))
			if err == nil {
				c.cache.put(q, r)
				return r, nil
			}
			failed = dnsError(err, server.addr)
			left--
		}
	}
	return reply{}, failed
}

// share returns the time for one of the tries that are left. If the deadline of ctx is near,
// a silent server must not take all of the time; but a server that has to ask others needs
// a second.
func (c *Client) share(ctx context.Context, left int) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return c.timeout
	}
	return min(c.timeout, max(time.Until(deadline)/time.Duration(left), time.Second))
}

// try asks one server, without EDNS if the server does not know it.
func (c *Client) try(ctx context.Context, s *server, q dnsmessage.Question, timeout time.Duration) (reply, error) {
	tryCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	edns := !s.plain.Load()
	r, err := c.query(tryCtx, s.addr, q, edns)
	if err == nil && edns && lacksEDNS(r.rcode) {
		edns = false
		r, err = c.query(tryCtx, s.addr, q, edns)
	}
	if err == nil {
		err = r.fault()
	}
	if ctx.Err() == nil {
		failed := err != nil
		s.plain.Store(edns == failed)
	}
	return r, err
}

// query makes one query, and repeats it over TCP if the reply does not fit into a packet.
func (c *Client) query(ctx context.Context, server string, q dnsmessage.Question, edns bool) (reply, error) {
	r, err := c.exchange(ctx, "udp", server, q, edns)
	if err == nil && r.truncated {
		r, err = c.exchange(ctx, "tcp", server, q, edns)
	}
	return r, err
}

// exchange sends one query from a port of its own and waits for the reply.
func (c *Client) exchange(ctx context.Context, network, server string, q dnsmessage.Question, edns bool) (r reply, err error) {
	var id [2]byte
	rand.Read(id[:]) // never fails
	query, err := pack(binary.BigEndian.Uint16(id[:]), q, edns)
	if err != nil {
		return reply{}, err
	}
	conn, err := c.dial(ctx, network, server)
	if err != nil {
		return reply{}, ended(ctx, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if network == "udp" {
		r, err = exchangePacket(ctx, conn, query, q)
	} else {
		r, err = exchangeStream(conn, query, q)
	}
	r.server = server
	return r, ended(ctx, err)
}

// ended returns the reason for the end of ctx instead of an error that follows from it.
func ended(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// exchangePacket ignores packets that are no reply to the query: anyone can send them, and
// the reply may follow. A malformed reply is an error: it is from the server, or from a
// sender that could have sent a good one.
func exchangePacket(ctx context.Context, conn net.Conn, query []byte, q dnsmessage.Question) (reply, error) {
	if _, err := conn.Write(query); err != nil {
		return reply{}, err
	}
	id := binary.BigEndian.Uint16(query)
	// One byte more shows that a packet is too large.
	buf := make([]byte, maxPacket+1)
	for ctx.Err() == nil {
		n, err := conn.Read(buf)
		if err != nil {
			return reply{}, err
		}
		if n > maxPacket {
			buf[2] |= truncatedBit
		}
		switch r, err := parse(buf[:n], id, q); {
		case err == nil:
			return r, nil
		case !errors.Is(err, errNotReply):
			return reply{}, malformed(err)
		}
	}
	return reply{}, ctx.Err()
}

// truncatedBit is the TC flag, in the third byte of a message.
const truncatedBit = 0x02

// maxMessage is the size of the largest message over TCP.
const maxMessage = 1<<16 - 1

// exchangeStream sends messages after their length (RFC 1035, section 4.2.2).
func exchangeStream(conn net.Conn, query []byte, q dnsmessage.Question) (reply, error) {
	if _, err := conn.Write(Frame(query)); err != nil {
		return reply{}, err
	}
	msg, err := ReadFrame(conn)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return reply{}, misbehaving("it closed the connection")
	}
	if err != nil {
		return reply{}, err
	}
	if len(msg) > 2 {
		// There is no larger transport: use the records in this message.
		msg[2] &^= truncatedBit
	}
	r, err := parse(msg, binary.BigEndian.Uint16(query), q)
	if err != nil {
		return reply{}, malformed(err)
	}
	if len(msg) > maxKept {
		r.ttl = 0
	}
	return r, nil
}

// ReadFrame reads a message after its length.
func ReadFrame(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(r, msg)
	return msg, err
}

// Frame returns the message after its length, to be written at once (RFC 7766, section 8).
func Frame(msg []byte) []byte {
	return append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(msg)), uint16(len(msg))), msg...)
}
