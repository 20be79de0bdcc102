//go:build amd64 || arm64

package conformance

import (
	"context"
	"flag"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

var stressTime = flag.Duration("stress", 2*time.Second, "how long TestStress calls methods")

const (
	stressers = 32
	// longest is how long one call may take, whatever happens to its stack. Contexts
	// bound dialling and looking names up.
	longest = 40 * time.Second
)

// TestStress calls every exported method of stacks, dialers, commands and netlink
// connections at random from many goroutines, with valid and invalid arguments, while the
// stacks are closed and replaced. Nothing may panic, hang or be left. It ignores errors.
func TestStress(t *testing.T) {
	testenv.Long(t)
	guard(t)
	s := &stress{t: t}
	for i := range s.stacks {
		s.replace(rand.New(rand.NewPCG(0, uint64(i))), i)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	end := time.Now().Add(*stressTime)
	var wg sync.WaitGroup
	for i := range stressers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			for time.Now().Before(end) && !t.Failed() {
				if r.IntN(20) == 0 {
					s.watched("replace a stack", func() { s.replace(r, r.IntN(len(s.stacks))) })
				} else {
					s.call(r)
				}
			}
		})
	}
	wg.Wait()
	for i := range s.stacks {
		if st := s.stacks[i].Swap(nil); st != nil {
			s.watched("Close", func() { st.Close() })
		}
	}
	t.Logf("%d calls", s.calls.Load())
}

type stress struct {
	t      *testing.T
	stacks [8]atomic.Pointer[vdestack.Stack]
	calls  atomic.Uint64
}

var stressNetworks = []string{"", "mem://stress", "mem://stress", "lan://stress", "null://", "netemu://delay=1ms{mem://stress}", "nonsense://x"}

// replace replaces a stack by a new one, and closes the old one.
func (s *stress) replace(r *rand.Rand, i int) {
	var prefixes []string
	vnl := stressNetworks[r.IntN(len(stressNetworks))]
	if vnl != "" {
		prefixes = []string{fmt.Sprintf("10.0.0.%d/24", 1+i), fmt.Sprintf("fc00::%d/64", 1+i)}
	}
	st, err := vdestack.Open(vnl, prefixes...)
	if err != nil {
		return
	}
	if old := s.stacks[i].Swap(st); old != nil {
		old.Close()
	}
}

// watched calls f. If f does not return, it ends the test program and prints all
// goroutines.
func (s *stress) watched(name string, f func()) {
	t := time.AfterFunc(longest, func() {
		buf := make([]byte, 1<<22)
		panic(fmt.Sprintf("%s has not returned after %v\n%s", name, longest, buf[:runtime.Stack(buf, true)]))
	})
	defer t.Stop()
	f()
}

// call calls one method of something.
func (s *stress) call(r *rand.Rand) {
	st := s.stacks[r.IntN(len(s.stacks))].Load()
	var target any
	switch r.IntN(6) {
	case 0:
		target = &vdestack.Dialer{Stack: st, Dialer: net.Dialer{Timeout: 100 * time.Millisecond}}
	case 1:
		target = &vdestack.ListenConfig{Stack: st}
	case 2:
		c, err := st.RTNL()
		if err != nil {
			return
		}
		defer c.Close()
		target = c
	default:
		target = st
	}
	v := reflect.ValueOf(target)
	m := v.Type().Method(r.IntN(v.NumMethod()))
	if m.Name == "SetMultipathTCP" || m.Name == "MultipathTCP" {
		return // those of package net
	}
	args, clean := s.args(r, m)
	defer clean()
	name := fmt.Sprintf("%T.%s", target, m.Name)
	s.calls.Add(1)
	s.watched(name, func() {
		for _, out := range v.Method(m.Index).Call(args) {
			s.use(r, out.Interface())
		}
	})
}

// use uses a result as a program would.
func (s *stress) use(r *rand.Rand, result any) {
	switch v := result.(type) {
	case nil:
	case *vdestack.Cmd:
		if v != nil {
			v.WaitDelay = time.Second
			v.Stdout = io.Discard
			v.Run()
		}
	case iter.Seq2[rtnl.Event, error]:
		for range v {
			if r.IntN(4) == 0 {
				break
			}
		}
	case interface{ CloseIdleConnections() }: // a client of HTTP, a transport
		v.CloseIdleConnections()
	case *net.TCPListener:
		v.SetDeadline(time.Now().Add(time.Duration(r.IntN(20)) * time.Millisecond))
		if c, err := v.Accept(); err == nil {
			c.Close()
		}
		v.Close()
	case net.Conn:
		if v != nil && !reflect.ValueOf(v).IsNil() {
			v.SetDeadline(time.Now().Add(time.Duration(r.IntN(20)) * time.Millisecond))
			v.Write([]byte("hello"))
			v.Read(make([]byte, 10))
			v.Close()
		}
	case io.Closer:
		if !reflect.ValueOf(v).IsNil() {
			v.Close()
		}
	}
}

// args makes arguments for a method. clean is called after it has returned.
func (s *stress) args(r *rand.Rand, m reflect.Method) (args []reflect.Value, clean func()) {
	var cleans []func()
	last := m.Type.NumIn()
	if m.Type.IsVariadic() {
		last--
	}
	strings := 0
	for i := 1; i < last; i++ {
		v, f := s.arg(r, m.Name, strings, m.Type.In(i))
		if m.Type.In(i).Kind() == reflect.String {
			strings++
		}
		cleans = append(cleans, f)
		args = append(args, v)
	}
	return args, func() {
		for _, f := range cleans {
			f()
		}
	}
}

// texts are for arguments of the type string, by the name of the method and the number of
// strings before. Others get one of those without a name.
var texts = map[string][]string{
	"":               {"", "tcp", "udp", "unixgram", "lo", "vde0", "\x00", "10.0.0.1:80", "no such thing"},
	"Run0":           {"true; true", "false", "sleep 0.01", "'", "/no/such"},
	"Command0":       {"true", "false", "yes", "/no/such"},
	"Sysctl0":        {"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "kernel.hostname", "net.none"},
	"Sysctl1":        {"0", "1", "x"},
	"IfNameToIndex0": {"lo", "vde0", "none"},
	"name":           {"localhost", "nobody.example", "http", "tcp", "10.0.0.1", "127.0.0.1", "fe80::1%vde0", "", "."},
	"network":        {"tcp", "tcp4", "tcp6", "udp", "udp4", "udp6", "ip4:icmp", "unix", "unixgram", "none"},
	"address":        {":0", "127.0.0.1:0", "[::1]:7000", ":7000", "10.0.0.1:7000", "10.0.0.2:7000", "[fc00::1]:7000", "localhost:7000", "nobody.example:80", "@stress", "10.0.0.99:1", "nonsense"},
}

var networked = regexp.MustCompile(`^(Dial|Listen|LookupIP$|LookupNetIP$|Control)`)

func (s *stress) text(r *rand.Rand, method string, before int) string {
	list := texts[fmt.Sprintf("%s%d", method, before)]
	switch {
	case list != nil:
	case networked.MatchString(method):
		list = texts[[]string{"network", "address"}[before]]
	case strings.HasPrefix(method, "Lookup"):
		list = texts["name"]
	default:
		list = texts[""]
	}
	return list[r.IntN(len(list))]
}

func (s *stress) arg(r *rand.Rand, method string, before int, t reflect.Type) (reflect.Value, func()) {
	nothing := func() {}
	addrs := []netip.Addr{{}, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.77"), netip.MustParseAddr("fc00::1"), netip.MustParseAddr("fe80::1"), netip.MustParseAddr("239.1.2.3"), netip.MustParseAddr("ff02::5")}
	addr := addrs[r.IntN(len(addrs))]
	prefix := netip.PrefixFrom(addr, 1+r.IntN(32))
	switch t {
	case reflect.TypeFor[context.Context]():
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.IntN(100))*time.Millisecond)
		return reflect.ValueOf(ctx), cancel
	case reflect.TypeFor[string]():
		return reflect.ValueOf(s.text(r, method, before)), nothing
	case reflect.TypeFor[int]():
		if method == "Socket" {
			return reflect.ValueOf([]int{unix.AF_INET, unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.AF_NETLINK, 0, -1}[r.IntN(6)]), nothing
		}
		return reflect.ValueOf(r.IntN(5) - 1), nothing
	case reflect.TypeFor[netip.Addr]():
		return reflect.ValueOf(addr), nothing
	case reflect.TypeFor[netip.Prefix]():
		return reflect.ValueOf(prefix), nothing
	case reflect.TypeFor[netip.AddrPort]():
		return reflect.ValueOf(netip.AddrPortFrom(addr, uint16(r.IntN(3)*4000))), nothing
	case reflect.TypeFor[net.HardwareAddr]():
		return reflect.ValueOf(net.HardwareAddr{2, 0, 0, 0, 0, byte(r.IntN(4))}[:r.IntN(7)]), nothing
	case reflect.TypeFor[rtnl.LinkSpec]():
		return reflect.ValueOf(rtnl.LinkSpec{Name: "s" + string('a'+rune(r.IntN(3))), Kind: []string{"dummy", "bridge", "none", ""}[r.IntN(4)], Up: r.IntN(2) == 0}), nothing
	case reflect.TypeFor[rtnl.Neighbor]():
		return reflect.ValueOf(rtnl.Neighbor{IfIndex: r.IntN(4), Addr: addr, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}}), nothing
	case reflect.TypeFor[netlink.Message]():
		data := make([]byte, r.IntN(40))
		return reflect.ValueOf(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(16 + r.IntN(80)), Flags: netlink.Request | netlink.Acknowledge}, Data: data}), nothing
	case reflect.TypeFor[syscall.RawConn]():
		f, err := os.Open(os.DevNull) // not a socket
		if r.IntN(4) > 0 && err == nil {
			f.Close()
			var fd int
			if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil {
				f = os.NewFile(uintptr(fd), "socket")
			}
		}
		if err != nil {
			s.t.Error(err)
			return reflect.Zero(t), nothing
		}
		raw, err := f.SyscallConn()
		if err != nil {
			s.t.Error(err)
		}
		return reflect.ValueOf(raw), func() { f.Close() }
	case reflect.TypeFor[*net.UnixAddr]():
		return reflect.ValueOf(&net.UnixAddr{Name: "@stress", Net: "unix"}), nothing
	case reflect.TypeFor[*vdestack.ForwardOptions]():
		return reflect.ValueOf(&vdestack.ForwardOptions{KeepSource: r.IntN(2) == 0}), nothing
	case reflect.TypeFor[rtnl.Route](), reflect.TypeFor[rtnl.Addr](), reflect.TypeFor[rtnl.Rule]():
		return reflect.Zero(t), nothing
	}
	switch t.Kind() {
	case reflect.Struct, reflect.Bool, reflect.Int, reflect.Func, reflect.Interface:
		return reflect.Zero(t), nothing
	}
	s.t.Errorf("TestStress knows no argument of the type %v for %s: add one", t, method)
	return reflect.Zero(t), nothing
}
