package rtnl

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mdlayher/netlink"

	"github.com/vdestack/vdestack/internal/testenv"
)

func nativeBig() bool { return binary.NativeEndian.Uint16([]byte{0, 1}) == 1 }

// linkMessage returns the shortest message of a link.
func linkMessage(index int, name string) []byte {
	return append(ifInfo{index: index}.encode(), marshal(words(iflaIfName, name))...)
}

func linkNames(links []Link) string {
	var names []string
	for _, l := range links {
		names = append(names, l.Name)
	}
	return fmt.Sprint(names)
}

// TestDump reads tables that change, and answers with errors.
func TestDump(t *testing.T) {
	part := func(req netlink.Message, flags netlink.HeaderFlags, i int) netlink.Message {
		return reply(req, rtmNewLink, netlink.Multi|flags, linkMessage(i, fmt.Sprintf("l%d", i)))
	}
	end := func(req netlink.Message, flags netlink.HeaderFlags) netlink.Message {
		m := done(req)
		m.Header.Flags |= flags
		return m
	}
	good := func(req netlink.Message) []any {
		return []any{[]netlink.Message{part(req, 0, 1), part(req, 0, 2)}, part(req, 0, 3), end(req, 0)}
	}
	const all = "[l1 l2 l3]"
	tests := []struct {
		name   string
		answer func(try int, req netlink.Message) []any
		tries  int
		want   string
		err    error
	}{
		{"several datagrams", func(_ int, req netlink.Message) []any { return good(req) }, 1, all, nil},
		{"interrupted, marked in the middle", func(try int, req netlink.Message) []any {
			if try == 1 {
				return []any{part(req, 0, 1), part(req, netlink.DumpInterrupted, 3), end(req, 0)}
			}
			return good(req)
		}, 2, all, nil},
		{"interrupted, marked at the end", func(try int, req netlink.Message) []any {
			if try <= 3 {
				return []any{[]netlink.Message{part(req, 0, 1), end(req, netlink.DumpInterrupted)}}
			}
			return good(req)
		}, 4, all, nil},
		{"always interrupted", func(_ int, req netlink.Message) []any {
			return []any{part(req, netlink.DumpInterrupted, 1), end(req, netlink.DumpInterrupted)}
		}, dumpTries, "[]", syscall.EAGAIN},
		{"overrun, with old parts left", func(try int, req netlink.Message) []any {
			if try == 1 {
				return []any{part(req, 0, 1), syscall.ENOBUFS, part(req, 0, 9), end(req, 0)}
			}
			return good(req)
		}, 2, all, nil},
		{"EINTR as answer", func(try int, req netlink.Message) []any {
			if try == 1 {
				return []any{ack(req, int(syscall.EINTR), "")}
			}
			return good(req)
		}, 2, all, nil},
		{"error at the end", func(_ int, req netlink.Message) []any {
			m := end(req, 0)
			code := -int32(syscall.EOPNOTSUPP)
			binary.NativeEndian.PutUint32(m.Data, uint32(code))
			return []any{part(req, 0, 1), m}
		}, 1, "[]", syscall.EOPNOTSUPP},
		{"refused", func(_ int, req netlink.Message) []any { return []any{ack(req, int(syscall.EPERM), "no")} }, 1, "[]", os.ErrPermission},
		{"empty", func(_ int, req netlink.Message) []any { return []any{done(req)} }, 1, "[]", nil},
		{"short link", func(_ int, req netlink.Message) []any {
			return []any{reply(req, rtmNewLink, netlink.Multi, make([]byte, 8)), done(req)}
		}, 1, "[]", errMalformed},
		{"lying length", func(_ int, req netlink.Message) []any {
			return []any{[]byte{200, 0, 0, 0, 16, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0}}
		}, 1, "[]", errMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tries := 0
			c, _ := dialFake(t, func(req netlink.Message) []any {
				tries++
				return tt.answer(tries, req)
			})
			links, err := c.Links()
			if !errors.Is(err, tt.err) || tt.err == nil && err != nil {
				t.Errorf("got error %v, want %v", err, tt.err)
			}
			if got := linkNames(links); got != tt.want || tries != tt.tries {
				t.Errorf("got %s after %d readings, want %s after %d", got, tries, tt.want, tt.tries)
			}
		})
	}
}

// TestRefusal reads last messages of an answer, some of them malformed.
func TestRefusal(t *testing.T) {
	req := netlink.Message{Header: netlink.Header{Length: 24, Type: rtmNewLink}, Data: make([]byte, 8)}
	words, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: 2, Data: make([]byte, 4)}, {Type: nlmsgerrAttrMsg, Data: []byte("so\x00")}})
	testenv.Check(t, err)
	busy := ack(req, int(syscall.EBUSY), "").Data // the number, and the request
	lying := append([]byte(nil), busy...)
	binary.NativeEndian.PutUint32(lying[4:], 1<<31)
	const said, capped = netlink.AcknowledgeTLVs, netlink.Capped
	for _, tt := range []struct {
		name  string
		typ   netlink.HeaderType
		flags netlink.HeaderFlags
		data  []byte
		err   error
		msg   string
	}{
		{"no end", rtmNewLink, 0, nil, nil, ""},
		{"done", netlink.Done, 0, make([]byte, 4), nil, ""},
		{"done, without a number", netlink.Done, 0, nil, nil, ""},
		{"done, with a number and words", netlink.Done, said, append(busy[:4:4], words...), syscall.EBUSY, "so"},
		{"acknowledged", netlink.Error, capped, make([]byte, 20), nil, ""},
		{"number", netlink.Error, 0, busy, syscall.EBUSY, ""},
		{"words behind the request", netlink.Error, said, append(busy[:len(busy):len(busy)], words...), syscall.EBUSY, "so"},
		{"words behind its header", netlink.Error, said | capped, append(busy[:20:20], words...), syscall.EBUSY, "so"},
		{"no words", netlink.Error, said, busy, syscall.EBUSY, ""},
		{"words cut", netlink.Error, said | capped, append(busy[:20:20], words[:len(words)-6]...), syscall.EBUSY, ""},
		{"lying request", netlink.Error, said, lying, syscall.EBUSY, ""},
		{"short", netlink.Error, 0, busy[:19], errMalformed, ""},
		{"short done", netlink.Done, 0, busy[:3], errMalformed, ""},
		{"negative", netlink.Error, 0, append([]byte{1, 0, 0, 1}, busy[4:]...), errMalformed, ""},
	} {
		err := refusal(netlink.Message{Header: netlink.Header{Type: tt.typ, Flags: tt.flags}, Data: tt.data})
		e, _ := errors.AsType[*Error](err)
		if !errors.Is(err, tt.err) || tt.err == nil && err != nil || e != nil && e.Msg != tt.msg || e == nil && tt.msg != "" {
			t.Errorf("%s: got %v, want %v and %q", tt.name, err, tt.err, tt.msg)
		}
	}
}

// TestStale gives up a request that gets no answer, and does not take its late answer
// for that of the next request.
func TestStale(t *testing.T) {
	var late netlink.Message
	f := newFake(nil)
	f.answer = func(req netlink.Message) []any {
		if late.Header.Sequence == 0 {
			late = req
			return nil
		}
		return []any{reply(late, rtmNewLink, 0, linkMessage(1, "old")), ack(late, 0, ""),
			reply(req, rtmNewLink, 0, linkMessage(2, "new")), ack(req, 0, "")}
	}
	c := newConn(f, nil, 50*time.Millisecond)
	defer c.Close()
	_, err := c.IfNameToIndex("old")
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v, want os.ErrDeadlineExceeded", err)
	}
	if i, err := c.IfNameToIndex("new"); i != 2 || err != nil {
		t.Errorf("got %d, %v, want 2", i, err)
	}
}

// A slowFake takes long to be closed.
type slowFake struct {
	*fake
	release chan struct{}
}

func (f slowFake) Close() error {
	<-f.release
	return f.fake.Close()
}

// TestCloseWaits closes a connection and its watch while a Close of them runs.
func TestCloseWaits(t *testing.T) {
	for _, watching := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			slow := slowFake{newFake(nil), make(chan struct{})}
			own, watched := transport(slow), transport(newFake(nil))
			if watching {
				own, watched = watched, own
			}
			c := newConn(own, nil, time.Second)
			ctx, cancel := context.WithCancel(t.Context())
			if _, err := c.startWatch(ctx, watched); err != nil {
				t.Fatal(err)
			}
			if watching {
				cancel() // the first Close of the watch
			}
			synctest.Wait()
			var returned atomic.Int32
			for range 2 {
				go func() {
					if err := c.Close(); err != nil {
						t.Error(err)
					}
					returned.Add(1)
				}()
			}
			synctest.Wait()
			if n := returned.Load(); n != 0 {
				t.Errorf("%d calls have returned", n)
			}
			close(slow.release)
			synctest.Wait()
			if n := returned.Load(); n != 2 {
				t.Errorf("%d calls have returned in the end", n)
			}
			cancel()
		})
	}
}

// TestConcurrent gives each goroutine its own answer.
func TestConcurrent(t *testing.T) {
	c, _ := dialFake(t, func(req netlink.Message) []any {
		return []any{reply(req, rtmNewLink, 0, linkMessage(indexAt(req.Data, 4), "x"))}
	})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 50 {
				want := i*50 + n
				if l, err := c.Link(want); l.Index != want || err != nil {
					t.Errorf("got %d, %v, want %d", l.Index, err, want)
				}
			}
		})
	}
	wg.Wait()
}

// TestInvalid passes arguments that do not fit into a message: nothing is sent.
func TestInvalid(t *testing.T) {
	c, f := dialFake(t, func(req netlink.Message) []any { return []any{ack(req, 0, "")} })
	v4, v6 := mustPrefix("10.0.0.1/24"), mustPrefix("fc00::1/64")
	gw4, gw6 := mustAddr("10.0.0.9"), mustAddr("fc00::9")
	spec := func(l LinkSpec) error { _, err := c.LinkAdd(l); return err }
	lookup := func(name string) error { _, err := c.IfNameToIndex(name); return err }
	big := 1<<31 - 1
	big++ // negative where int has 32 bits
	tests := []struct {
		name string
		err  error
		want error
	}{
		{"empty name", lookup(""), syscall.ENODEV},
		{"long name", lookup("0123456789abcdef"), syscall.ERANGE},
		{"odd name", lookup("a b"), syscall.ENODEV},
		{"name with NUL", lookup("a\x00b"), syscall.ENODEV},
		{"negative index", c.LinkSetUp(-1), syscall.EINVAL},
		{"large index", c.LinkSetDown(big), syscall.EINVAL},
		{"negative index, delete", c.LinkDel(-1), syscall.EINVAL},
		{"negative index, MAC", c.LinkSetAddr(-1, make(net.HardwareAddr, 6)), syscall.EINVAL},
		{"no MAC", c.LinkSetAddr(1, nil), syscall.EINVAL},
		{"short MAC", c.LinkSetAddr(1, make(net.HardwareAddr, 5)), syscall.EINVAL},
		{"long MAC", c.LinkSetAddr(1, make(net.HardwareAddr, 8)), syscall.EINVAL},
		{"negative MTU", c.LinkSetMTU(1, -1), syscall.EINVAL},
		{"large MTU", c.LinkSetMTU(1, big), syscall.EINVAL},
		{"rename to nothing", c.LinkSetName(1, ""), syscall.EINVAL},
		{"rename to dots", c.LinkSetName(1, ".."), syscall.EINVAL},
		{"negative master", c.LinkSetMaster(1, -2), syscall.EINVAL},
		{"no address", c.AddrAdd(1, v4.Masked().Masked(), Peer(gw6)), syscall.EINVAL},
		{"zero prefix", c.AddrAdd(1, mustPrefix("::/0"), Label("x")), syscall.EINVAL},
		{"no prefix at all", c.AddrDel(1, zeroPrefix), syscall.EINVAL},
		{"broadcast of IPv6", c.AddrAdd(1, v6, Broadcast(gw4)), syscall.EINVAL},
		{"IPv6 broadcast", c.AddrAdd(1, v4, Broadcast(gw6)), syscall.EINVAL},
		{"long label", c.AddrAdd(1, v4, Label("0123456789abcdef")), syscall.ERANGE},
		{"negative lifetime", c.AddrAdd(1, v4, Lifetime{Valid: -1}), syscall.EINVAL},
		{"no destination", c.RouteAdd(zeroPrefix, zeroAddr, 1), syscall.EINVAL},
		{"prefix too long", c.RouteAdd(netip.PrefixFrom(gw4, 33), zeroAddr, 1), syscall.EINVAL},
		{"gateway of another family", c.RouteAdd(v4.Masked(), gw6, 1), syscall.EINVAL},
		{"IPv4 gateway as IPv6", c.RouteAdd(zeroPrefix, mustAddr("::ffff:10.0.0.9"), 1), syscall.EINVAL},
		{"gateway with zone", c.RouteAdd(zeroPrefix, mustAddr("fe80::1%eth0"), 1), syscall.EINVAL},
		{"source of another family", c.RouteAdd(v4.Masked(), gw4, 1, Source(gw6)), syscall.EINVAL},
		{"negative index, route", c.RouteDel(v4.Masked(), gw4, -1), syscall.EINVAL},
		{"remove nothing", c.RouteRemove(Route{}), syscall.EINVAL},
		{"remove nothing", c.AddrRemove(Addr{}), syscall.EINVAL},
		{"neighbour without address", c.NeighborAdd(Neighbor{IfIndex: 1}), syscall.EINVAL},
		{"neighbour with zone", c.NeighborDel(1, mustAddr("fe80::1%1")), syscall.EINVAL},
		{"neighbour, short MAC", c.NeighborAdd(Neighbor{IfIndex: 1, Addr: gw4, HardwareAddr: net.HardwareAddr{1}}), syscall.EINVAL},
		{"link of no kind", spec(LinkSpec{Name: "x"}), syscall.EINVAL},
		{"link, odd name", spec(LinkSpec{Name: "x/y", Kind: "bridge"}), syscall.EINVAL},
		{"link, long name", spec(LinkSpec{Name: "0123456789abcdef", Kind: "bridge"}), syscall.ERANGE},
		{"link, peer's name", spec(LinkSpec{Kind: "veth", Peer: &LinkSpec{Name: "x y"}}), syscall.EINVAL},
		{"bridge with peer", spec(LinkSpec{Kind: "bridge", Peer: &LinkSpec{}}), syscall.EINVAL},
		{"index of the peer only", spec(LinkSpec{Kind: "veth", Peer: &LinkSpec{Index: 7}}), syscall.EINVAL},
		{"VLAN id", spec(LinkSpec{Kind: "vlan", VLAN: 4095}), syscall.EINVAL},
		{"bridge with VXLAN", spec(LinkSpec{Kind: "bridge", VXLAN: &VXLAN{}}), syscall.EINVAL},
		{"link, MAC", spec(LinkSpec{Kind: "bridge", MAC: make(net.HardwareAddr, 20)}), syscall.EINVAL},
		{"link, MTU", spec(LinkSpec{Kind: "bridge", MTU: -5}), syscall.EINVAL},
		{"link, index", spec(LinkSpec{Kind: "bridge", Index: -1}), syscall.EINVAL},
		{"link, parent", spec(LinkSpec{Kind: "macvlan", Parent: -1}), syscall.EINVAL},
		{"link, huge data", spec(LinkSpec{Kind: "bridge", Data: []netlink.Attribute{{Type: 1, Data: make([]byte, 1<<16)}}}), syscall.EMSGSIZE},
	}
	for _, tt := range tests {
		if !errors.Is(tt.err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, tt.err, tt.want)
		}
		if e, ok := errors.AsType[*Error](tt.err); ok && e.Msg == "" {
			t.Errorf("%s: %v does not say what is wrong", tt.name, e)
		}
	}
	if len(f.sent) > 0 {
		t.Errorf("%d messages were sent", len(f.sent))
	}
}
