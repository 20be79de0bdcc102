package rtnl

import (
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack/internal/nlsocket"
	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/testenv"
)

// A userStack is a stack in user space: it returns one end of a socket pair, and
// answers at the other.
type userStack struct {
	typ    int
	answer func(req netlink.Message) []any

	wg   sync.WaitGroup
	mu   sync.Mutex // guards the rest
	sent [][]byte
	ends []*os.File
}

func (s *userStack) Socket(_, _, _ int) (*os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, s.typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	end := os.NewFile(uintptr(pair[1]), "stack")
	s.mu.Lock()
	s.ends = append(s.ends, end)
	s.mu.Unlock()
	s.wg.Go(func() { s.serve(end) })
	return os.NewFile(uintptr(pair[0]), "pair"), nil
}

func (s *userStack) serve(end *os.File) {
	b := make([]byte, 1<<16)
	for {
		n, err := end.Read(b)
		if err != nil || n == 0 {
			return
		}
		s.mu.Lock()
		s.sent = append(s.sent, append([]byte(nil), b[:n]...))
		s.mu.Unlock()
		for m := range nlsocket.Messages(b[:n]) {
			for _, d := range s.answer(m) {
				b, err := datagram(d)
				if err == nil {
					_, err = end.Write(b)
				}
				if err != nil {
					return
				}
			}
		}
	}
}

// hangUp closes the stack's ends.
func (s *userStack) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, end := range s.ends {
		end.Close()
	}
}

// TestUserStack configures a stack that is not the kernel's.
func TestUserStack(t *testing.T) {
	if nativeBig() {
		t.Skip("the bytes are little-endian")
	}
	for name, typ := range map[string]int{"SEQPACKET": unix.SOCK_SEQPACKET, "DGRAM": unix.SOCK_DGRAM} {
		t.Run(name, func(t *testing.T) {
			dumps := kernelOf(t)
			s := &userStack{typ: typ, answer: func(req netlink.Message) []any {
				switch {
				case req.Header.Flags&netlink.Dump == netlink.Dump:
					return dumps(req)
				case req.Header.Type == rtmNewAddr:
					return []any{ack(req, int(unix.EEXIST), "it is here already")}
				case req.Header.Type == rtmGetLink:
					return []any{reply(req, rtmNewLink, 0, ifInfo{index: 7}.encode()), ack(req, 0, "")}
				}
				return []any{ack(req, 0, "")}
			}}
			c, err := Dial(s)
			testenv.Check(t, err)
			defer s.wg.Wait()
			defer s.hangUp()
			defer c.Close()

			err = c.RouteAdd(netip.Prefix{}, mustAddr("10.1.2.254"), 0)
			const want = "2c0000001800050601000000000000000200" + "0000fe030001000000000800000000000000" + "080005000a0102fe"
			s.mu.Lock()
			got := hex.EncodeToString(s.sent[0])
			s.mu.Unlock()
			if err != nil || got != want {
				t.Errorf("got  %s, %v\nwant %s", got, err, want)
			}
			links, err := c.Links()
			if err != nil || len(links) != 7 {
				t.Errorf("%d links, %v", len(links), err)
			}
			routes, err := c.Routes()
			if err != nil || len(routes) == 0 {
				t.Errorf("%d routes, %v", len(routes), err)
			}
			neighbors, err := c.Neighbors()
			if err != nil || len(neighbors) != 2 {
				t.Errorf("%d neighbours, %v", len(neighbors), err)
			}
			err = c.AddrAdd(7, mustPrefix("10.0.0.1/24"))
			if e, ok := errors.AsType[*Error](err); !ok || e.Err != unix.EEXIST || e.Msg != "it is here already" {
				t.Errorf("refused: %v", err)
			}
			if i, err := c.LinkAdd(LinkSpec{Name: "vde0", Kind: "vde"}); i != 7 || err != nil {
				t.Errorf("new link: %d, %v", i, err)
			}
			for _, err := range c.Watch(t.Context()) {
				if !errors.Is(err, errors.ErrUnsupported) {
					t.Errorf("watch: %v", err)
				}
			}
			s.hangUp()
			s.wg.Wait()
			if _, err := c.Links(); err == nil {
				t.Error("the stack has gone, and lists links")
			}
		})
	}
}

// TestCloseUnblocks ends calls that wait for an answer.
func TestCloseUnblocks(t *testing.T) {
	sent := make(chan bool, 10)
	s := &userStack{typ: unix.SOCK_SEQPACKET, answer: func(netlink.Message) []any { sent <- true; return nil }}
	c, err := Dial(s)
	testenv.Check(t, err)
	defer s.wg.Wait()
	defer s.hangUp()
	errs := make(chan error)
	for range 3 {
		go func() { errs <- c.LinkSetUp(1) }()
	}
	<-sent // one waits for its answer, two for their turn
	for range 2 {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := c.LinkSetUp(1); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v, want net.ErrClosed", err)
		}
	}
	for range 3 {
		if err := <-errs; !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v, want net.ErrClosed", err)
		}
	}
}
