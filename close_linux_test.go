package vdestack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// TestCloseBeside closes stacks, twice at once, while every other method runs.
func TestCloseBeside(t *testing.T) {
	testenv.Long(t)
	netnstest.NoLeaks(t)
	for range 10 {
		s := testenv.Must(Open("mem://"+t.Name(), "10.0.0.1/24", "fc00::1:1/64"))(t)
		closed := make(chan bool)
		var wg sync.WaitGroup
		loop := func(name string, f func() error) {
			wg.Go(func() {
				for {
					err := f()
					var ne net.Error
					switch {
					case err == nil, errors.As(err, &ne) && ne.Timeout():
					case errors.Is(err, net.ErrClosed), errors.Is(err, unix.ENETUNREACH):
					default:
						select {
						case <-closed: // interfaces vanish under the call
						default:
							t.Errorf("%s: %v", name, err)
						}
					}
					select {
					case <-closed:
						return
					default:
					}
				}
			})
		}
		loop("Dial", func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			return testenv.Closing(s.DialContext(ctx, "tcp", "10.0.0.2:80"))
		})
		loop("Listen", func() error { return testenv.Closing(s.Listen("tcp", ":0")) })
		loop("ListenPacket", func() error { return testenv.Closing(s.ListenPacket("udp6", "[fc00::1:1]:0")) })
		loop("ListenPacket, raw", func() error { return testenv.Closing(s.ListenPacket("ip6:58", "")) })
		loop("ListenMulticastUDP", func() error {
			return testenv.Closing(s.ListenMulticastUDP("udp", "", netip.MustParseAddrPort("[ff02::9]:80")))
		})
		loop("Socket", func() error { return testenv.Closing(s.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)) })
		loop("RTNL", func() error {
			nl, err := s.RTNL()
			if err == nil {
				_, err = nl.Links()
				nl.Close()
			}
			return err
		})
		loop("Command", func() error {
			err := s.Command(context.Background(), "true").Run()
			if err != nil && err.Error() == "signal: killed" {
				return nil
			}
			return err
		})
		loop("Stats", func() error { s.Stats(); return nil })
		time.AfterFunc(30*time.Millisecond, func() {
			for range 2 {
				wg.Go(func() {
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Go(func() { s.Close(); close(closed) })
		})
		<-closed
		wg.Wait()
	}
}

// TestCloseAtOnce closes a stack from several goroutines at once, while the kernel takes
// long to remove interfaces: calls that wait return net.ErrClosed.
func TestCloseAtOnce(t *testing.T) {
	netnstest.NoLeaks(t)
	netnstest.Busy(t)
	for round := range 10 {
		s := testenv.Must(Open([]string{"", "null://"}[round%2]))(t)
		var waiting sync.WaitGroup
		for range 50 {
			ln := testenv.Must(s.Listen("tcp", "127.0.0.1:0"))(t)
			waiting.Go(func() {
				if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
					t.Errorf("accept: %v, want net.ErrClosed", err)
				}
			})
		}
		var closing sync.WaitGroup
		for range 4 {
			closing.Go(func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		closing.Wait()
		waiting.Wait()
	}
}

// TestCloseSockets closes a stack under calls that wait on sockets of every
// kind; each returns.
func TestCloseSockets(t *testing.T) {
	netnstest.NoLeaks(t)
	a, b := pair(t)
	listen := func(s *Stack, network, address string, mptcp bool) net.Listener {
		lc := ListenConfig{Stack: s}
		lc.SetMultipathTCP(mptcp)
		ln := testenv.Opened(lc.Listen(t.Context(), network, address))(t)
		return ln
	}
	connect := func(ln net.Listener, mptcp bool) (client, server net.Conn) {
		d := Dialer{Stack: b}
		if ln.Addr().Network() == "unix" {
			d.Stack = a
		}
		d.SetMultipathTCP(mptcp)
		client = testenv.Must(d.Dial(ln.Addr().Network(), ln.Addr().String()))(t)
		server = testenv.Must(ln.Accept())(t)
		t.Cleanup(func() { client.Close(); server.Close() })
		return client, server
	}
	results := make(chan string)
	waiting := 0
	wait := func(name string, want error, f func() error) {
		waiting++
		go func() {
			err := f()
			switch {
			case err == nil:
				results <- name + ": no error"
			case want != nil && !errors.Is(err, want):
				results <- name + ": " + err.Error()
			default:
				t.Logf("%s: %v", name, err)
				results <- ""
			}
		}()
	}
	read := func(c net.Conn) error { _, err := c.Read(make([]byte, 10)); return err }
	write := func(c net.Conn) error { // until nobody takes it
		for {
			if _, err := c.Write(make([]byte, 1<<16)); err != nil {
				return err
			}
		}
	}
	for _, mptcp := range []bool{false, true} {
		name := map[bool]string{false: "tcp", true: "mptcp"}[mptcp]
		ln := listen(a, "tcp", "10.0.0.1:0", mptcp)
		wait(name+" accept", net.ErrClosed, func() error { _, err := ln.Accept(); return err })
		other := listen(a, "tcp", "10.0.0.1:0", mptcp)
		client, server := connect(other, mptcp)
		wait(name+" accepted read", nil, func() error { return read(server) })
		wait(name+" peer's read", nil, func() error { return read(client) })
		_, writer := connect(other, mptcp)
		wait(name+" accepted write", nil, func() error { return write(writer) })
		// The bare hook.
		lc := net.ListenConfig{Control: a.Control}
		lc.SetMultipathTCP(mptcp)
		bare := testenv.Opened(lc.Listen(t.Context(), "tcp", "10.0.0.1:0"))(t)
		wait(name+" bare accept", nil, func() error { _, err := bare.Accept(); return err })
		d := net.Dialer{ControlContext: a.ControlContext}
		d.SetMultipathTCP(mptcp)
		far := listen(b, "tcp", "10.0.0.2:0", mptcp)
		for what, f := range map[string]func(c net.Conn) error{" bare read": read, " bare write": write} {
			c := testenv.Opened(d.Dial("tcp", far.Addr().String()))(t)
			wait(name+what, nil, func() error { return f(c) })
		}
		wait(name+" bare dial", nil, func() error { _, err := d.Dial("tcp", "10.0.0.99:80"); return err })
		own := Dialer{Stack: a}
		own.SetMultipathTCP(mptcp)
		wait(name+" dial", net.ErrClosed, func() error { _, err := own.Dial("tcp", "10.0.0.98:80"); return err })
		full := testenv.Must(own.Dial("tcp", far.Addr().String()))(t)
		wait(name+" write", net.ErrClosed, func() error { return write(full) })
	}
	ln := listen(a, "unix", "@close", false)
	client, server := connect(ln, false)
	wait("unix accept", net.ErrClosed, func() error { _, err := ln.Accept(); return err })
	wait("unix read", net.ErrClosed, func() error { return read(client) })
	wait("unix accepted read", nil, func() error { return read(server) })
	udp := testenv.Must(a.ListenPacket("udp", ":0"))(t)
	wait("udp", net.ErrClosed, func() error { _, _, err := udp.ReadFrom(make([]byte, 10)); return err })
	lc := net.ListenConfig{Control: a.Control}
	bare := testenv.Opened(lc.ListenPacket(t.Context(), "udp", ":0"))(t)
	wait("bare udp", nil, func() error { _, _, err := bare.ReadFrom(make([]byte, 10)); return err })
	nl := testenv.Must(a.RTNL())(t)
	wait("watch", net.ErrClosed, func() error {
		for _, err := range nl.Watch(t.Context()) {
			if err != nil {
				return err
			}
		}
		return net.ErrClosed // the watch ends with its connection
	})
	runtime.GC() // the references are weak, but the connections in use
	time.Sleep(20 * time.Millisecond)
	testenv.Check(t, a.Close())
	limit := time.After(time.Second)
	for range waiting {
		select {
		case r := <-results:
			if r != "" {
				t.Error(r)
			}
		case <-limit:
			t.Fatal("a call waits a second after Close")
		}
	}
}

// A lastPlug is a plug whose Close waits for a frame about an address, such as a question
// for it, that is sent after Close has begun, when all sockets were ended.
type lastPlug struct {
	t             *testing.T
	addr          []byte
	closing, sent chan bool
	once          sync.Once
	closed        chan bool
}

// lastPlugs are those that last:// opens, by the rest of the locator.
var lastPlugs sync.Map

func init() {
	vdeplug.Register(vdeplug.Scheme{Name: "last", Open: func(_ context.Context, l vdeplug.Locator, _ *vdeplug.Options) (vdeplug.Conn, error) {
		p, _ := lastPlugs.LoadAndDelete(l.String())
		return p.(*lastPlug), nil
	}})
}

func (p *lastPlug) Recv([]byte) (int, error) {
	<-p.closed
	return 0, net.ErrClosed
}

func (p *lastPlug) Send(frame []byte) error {
	select {
	case <-p.closing:
		if !bytes.Contains(frame, p.addr) {
			return nil
		}
		select {
		case p.sent <- true:
		default:
		}
	default:
	}
	return nil
}

func (p *lastPlug) Close() error {
	p.once.Do(func() {
		close(p.closing)
		select {
		case <-p.sent:
		case <-time.After(testenv.Timeout):
			p.t.Error("no frame about the address is sent while Close runs")
		}
		close(p.closed)
	})
	return nil
}

// TestCloseDialLate dials when Close has ended the sockets of the stack, and
// has not removed the interfaces yet.
func TestCloseDialLate(t *testing.T) {
	netnstest.NoLeaks(t)
	for _, mptcp := range []bool{false, true} {
		for _, dst := range []string{"10.0.0.2:80", "[fc00::1:2]:80"} {
			t.Run(fmt.Sprint(dst, " multipath ", mptcp), func(t *testing.T) {
				plug := &lastPlug{t: t, addr: netip.MustParseAddrPort(dst).Addr().AsSlice(), closing: make(chan bool), sent: make(chan bool, 1), closed: make(chan bool)}
				vnl := fmt.Sprintf("last://%v/%p", mptcp, plug)
				lastPlugs.Store(vnl, plug)
				// Without reconnection the stack has the plug itself; others send nothing once
				// they are being closed.
				s, err := New(t.Context(), Config{Interfaces: []Interface{{VNL: vnl, NoReconnect: true, Addrs: testenv.Prefixes("10.0.0.1/24", "fc00::1:1/64")}}})
				testenv.Check(t, err)
				ready, dialled := make(chan bool), make(chan error, 1)
				d := Dialer{Stack: s}
				d.SetMultipathTCP(mptcp)
				// The socket is in the stack by now, and connects when this returns.
				d.ControlContext = func(context.Context, string, string, syscall.RawConn) error {
					close(ready)
					<-plug.closing
					return nil
				}
				go func() {
					dialled <- testenv.Closing(d.DialContext(t.Context(), "tcp", dst))
				}()
				<-ready
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				select {
				case err := <-dialled:
					if !errors.Is(err, net.ErrClosed) {
						t.Errorf("got %v, want net.ErrClosed", err)
					}
				case <-time.After(5 * time.Second):
					t.Error("Dial waits for a connection in a closed stack")
				}
			})
		}
	}
}
