package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Resolver returns a resolver of package net that asks the Client, for LookupTXT, LookupMX,
// LookupSRV, LookupAddr and others. It is safe for concurrent use. Its packets go to
// Config.Servers only; localhost, and names and addresses in Config.Hosts, need no packets.
//
// Package net also reads the configuration of the host. Use [Client.LookupNetIP] where that
// must not matter:
//
//   - LookupHost, LookupIP, LookupIPAddr, LookupNetIP, LookupCNAME and LookupAddr read
//     /etc/hosts first, or only, depending on /etc/nsswitch.conf.
//   - Names without a trailing dot are tried with the search list and ndots of
//     /etc/resolv.conf, not with Config.Search and Config.Ndots.
//   - The timeout and attempts are those of /etc/resolv.conf too. An attempt of package
//     net asks each of Config.Servers once, with Config.Timeout for each and the timeout
//     of /etc/resolv.conf for all. It is repeated for each server of the host.
//   - Errors name a server of the host, which was not asked. The text at their end names
//     the server that was.
//   - Addresses are sorted by the routes of the host, without a packet (see Sort).
//   - LookupPort reads /etc/services.
func (c *Client) Resolver() *net.Resolver {
	return &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			s := &serverConn{client: c}
			s.ctx, s.cancel = context.WithCancelCause(ctx)
			return s, nil
		},
	}
}

// A serverConn pretends to be a connection to a server: Read answers the queries that were
// written, with the framing of TCP. It has no goroutine, and ends with its context, which has
// the deadline that package net sets.
type serverConn struct {
	client *Client
	ctx    context.Context
	cancel context.CancelCauseFunc

	queries bytes.Buffer // written, but not answered
	replies bytes.Buffer // not read
}

var _ net.Conn = (*serverConn)(nil)

func (s *serverConn) Write(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	return s.queries.Write(p)
}

func (s *serverConn) Read(p []byte) (int, error) {
	if s.replies.Len() == 0 {
		query, err := readFrame(&s.queries)
		if err != nil {
			return 0, err
		}
		msg, err := s.client.answer(s.ctx, query)
		if err != nil && errors.Is(context.Cause(s.ctx), net.ErrClosed) {
			err = net.ErrClosed
		}
		if err != nil {
			return 0, err
		}
		s.replies.Write(frame(msg))
	}
	return s.replies.Read(p)
}

// Close makes a waiting Read return net.ErrClosed.
func (s *serverConn) Close() error {
	s.cancel(net.ErrClosed)
	return nil
}

func (s *serverConn) SetDeadline(time.Time) error      { return nil }
func (s *serverConn) SetReadDeadline(time.Time) error  { return nil }
func (s *serverConn) SetWriteDeadline(time.Time) error { return nil }
func (s *serverConn) LocalAddr() net.Addr              { return &net.UnixAddr{Net: "dns", Name: "stack"} }
func (s *serverConn) RemoteAddr() net.Addr             { return s.LocalAddr() }

// answer answers a query message of package net, which may repeat it.
func (c *Client) answer(ctx context.Context, query []byte) ([]byte, error) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	if records, ok := c.known(q); ok {
		m := dnsmessage.Message{
			Header: dnsmessage.Header{
				ID:                 h.ID,
				Response:           true,
				Authoritative:      true,
				RecursionDesired:   h.RecursionDesired,
				RecursionAvailable: true,
			},
			Questions: []dnsmessage.Question{q},
			Answers:   records,
		}
		return m.Pack()
	}
	r, failed := c.ask(ctx, q, 1)
	if failed != nil {
		return nil, askError{failed}
	}
	binary.BigEndian.PutUint16(r.msg, h.ID)
	return r.msg, nil
}

// known returns the records that answer a question without a server, and whether no server
// must be asked.
func (c *Client) known(q dnsmessage.Question) ([]dnsmessage.Resource, bool) {
	name := fold(q.Name.String())
	var bodies []dnsmessage.ResourceBody
	switch q.Type {
	case dnsmessage.TypeA, dnsmessage.TypeAAAA:
		addrs, ok := c.hosts.addrs(name)
		if !ok {
			return nil, false
		}
		for _, a := range ofType(q.Type, addrs) {
			if a.Is4() {
				bodies = append(bodies, &dnsmessage.AResource{A: a.As4()})
			} else {
				bodies = append(bodies, &dnsmessage.AAAAResource{AAAA: a.As16()})
			}
		}
	case dnsmessage.TypePTR:
		names, ok := c.hosts.byAddr[name]
		if !ok {
			return nil, false
		}
		for _, n := range names {
			bodies = append(bodies, &dnsmessage.PTRResource{PTR: dnsmessage.MustNewName(n)})
		}
	default:
		return nil, isBelow(name, "localhost")
	}
	var records []dnsmessage.Resource
	for _, b := range bodies[:min(len(bodies), maxAddrs)] {
		h := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}
		records = append(records, dnsmessage.Resource{Header: h, Body: b})
	}
	return records, true
}

// askError is a DNSError whose text goes into another one.
type askError struct{ *net.DNSError }

func (e askError) Error() string {
	if e.Server == "" {
		return e.Err
	}
	return e.Err + " (asked " + e.Server + ")"
}
