package vdestack_test

import (
	"context"
	"fmt"
	"iter"
	"log"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/net/dns/dnsmessage"
)

// A network of several machines, which are found by the SRV records of a name. The resolver
// is that of a stack, which here reaches its server by a network of its own.
func Example_remotes() {
	names, err := vdestack.New(context.Background(), vdestack.Config{
		Interfaces: []vdestack.Interface{{VNL: "mem://names", Addrs: []netip.Prefix{netip.MustParsePrefix("10.9.0.2/24")}}},
		DNS:        vdestack.DNS{Servers: []netip.AddrPort{netip.MustParseAddrPort("10.9.0.1:53")}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer names.Close()
	vdeplug.RegisterRemotes("srv", srvRemotes(names, 10*time.Second))

	st, err := vdestack.Open("vxlan:///vni=42/remotes=srv:_vxlan._udp.lab.example", "10.0.0.1/24")
	if err != nil {
		log.Fatal(err)
	}
	defer st.Close()
}

// srvRemotes looks up a name from time to time.
func srvRemotes(s *vdestack.Stack, every time.Duration) vdeplug.RemotesFunc {
	return func(ctx context.Context, name string) iter.Seq2[[]netip.AddrPort, error] {
		return func(yield func([]netip.AddrPort, error) bool) {
			for yield(srvHosts(ctx, s, name)) {
				select {
				case <-ctx.Done():
					return
				case <-time.After(every):
				}
			}
		}
	}
}

// srvHosts returns an address of each host, as each gets what is for all once.
func srvHosts(ctx context.Context, s *vdestack.Stack, name string) ([]netip.AddrPort, error) {
	_, records, err := s.LookupSRV(ctx, "", "", name)
	if err != nil {
		return nil, err
	}
	var hosts []netip.AddrPort
	for _, r := range records {
		addrs, err := s.LookupNetIP(ctx, "ip4", r.Target)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, netip.AddrPortFrom(addrs[0], r.Port))
	}
	return hosts, nil
}

// srvSources counts the sources of TestSRVRemotes, which stay registered.
var srvSources atomic.Int32

// TestSRVRemotes is Example_remotes with a server whose answer changes.
func TestSRVRemotes(t *testing.T) {
	netnstest.NoLeaks(t)
	names := testenv.Must(vdestack.New(t.Context(), vdestack.Config{DNS: vdestack.DNS{
		Servers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")},
		Hosts:   map[string][]netip.Addr{"a.lab.example": testenv.Addrs("127.0.0.3"), "b.lab.example": testenv.Addrs("127.0.0.4")},
	}}))(t)
	defer names.Close()
	server := testenv.Must(names.ListenPacket("udp", "127.0.0.1:53"))(t)
	var target atomic.Value
	target.Store("a.lab.example.")
	go serveSRV(server, func() string { return target.Load().(string) })
	source := fmt.Sprintf("srvtest%d", srvSources.Add(1))
	vdeplug.RegisterRemotes(source, srvRemotes(names, 20*time.Millisecond))

	open := func(vnl string) *plugtest.Inbox {
		t.Helper()
		return plugtest.NewInbox(t, testenv.Must(vdeplug.Open(vnl, nil))(t))
	}
	from := open("vxlan:///vni=42/bind=127.0.0.2/remotes=" + source + ":_vxlan._udp.lab.example")
	a, b := open("vxlan:///vni=42/bind=127.0.0.3/remote=127.0.0.2"), open("vxlan:///vni=42/bind=127.0.0.4/port=5000/remote=127.0.0.2")
	plugtest.Deliver(t, from, a, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
	target.Store("b.lab.example.")
	plugtest.Carry(t, from, b, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
}

// serveSRV answers that one host has a service, a at port 4789 and others at 5000.
func serveSRV(c net.PacketConn, target func() string) {
	buf := make([]byte, 512)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		q, host := m.Questions[0], target()
		m = dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true}, Questions: m.Questions}
		if q.Type == dnsmessage.TypeSRV {
			port := uint16(5000)
			if strings.HasPrefix(host, "a.") {
				port = 4789
			}
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET},
				Body:   &dnsmessage.SRVResource{Target: dnsmessage.MustNewName(host), Port: port},
			}}
		}
		reply, _ := m.Pack()
		c.WriteTo(reply, from)
	}
}
