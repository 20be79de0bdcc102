package vdeplug

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"net"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

// needTAP skips the test without the right to make interfaces.
func needTAP(t testing.TB) {
	t.Helper()
	testenv.NeedRoot(t, "making an interface")
	if _, err := os.Stat(tunDevice); err != nil {
		testenv.Skip(t, "%v (modprobe tun)", err)
	}
}

// openTAPTest returns a plug, and the name of its interface.
func openTAPTest(t *testing.T, name string) (Conn, string) {
	t.Helper()
	c := openPlug(t, "tap://"+name)
	tap, _ := packet.Find[*tapConn](transportOf(c))
	return c, tap.name
}

// A packetSocket is on the host's side of an interface.
type packetSocket struct{ *os.File }

func (s packetSocket) Recv(frame []byte) (int, error) { return s.Read(frame) }
func (s packetSocket) Send(frame []byte) error        { _, err := s.Write(frame); return err }

func openPacket(ifname string) (packetSocket, error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return packetSocket{}, err
	}
	var all [2]byte // a number in network order
	binary.BigEndian.PutUint16(all[:], unix.ETH_P_ALL)
	proto := binary.NativeEndian.Uint16(all[:])
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(proto))
	if err != nil {
		return packetSocket{}, err
	}
	s := packetSocket{os.NewFile(uintptr(fd), "packet socket")}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: ifi.Index}); err != nil {
		s.Close()
		return packetSocket{}, err
	}
	return s, nil
}

// TestTAPFrames carries frames between the plug and the host.
func TestTAPFrames(t *testing.T) {
	needTAP(t)
	for _, name := range []string{"", "vdetest0"} {
		t.Run("name "+name, func(t *testing.T) {
			testenv.NoLeaks(t)
			c, got := openTAPTest(t, name)
			if name != "" && got != name || got == "" {
				t.Errorf("the interface is called %q", got)
			}
			ip(t, "link set "+got+" mtu 9216 up")
			in, host := plugtest.NewInbox(t, c), testNetns.packetSocket(t, got)
			plugtest.SendBoth(t, in, host, 14, 15, 60, 1514, 9216+14)
			c.Close()
			if _, err := net.InterfaceByName(got); err == nil {
				t.Error("the interface is still there")
			}
		})
	}
}

// TestTAPRemoved removes the interface of a plug.
func TestTAPRemoved(t *testing.T) {
	needTAP(t)
	testenv.NoLeaks(t)
	in := openInbox(t, "tap://vdetest0")
	ip(t, "link set vdetest0 up")
	ip(t, "link del vdetest0")
	err := in.WantEnd(t)
	plugtest.WantError(t, err, "interface vdetest0 was removed")
	var e *Error
	if !errors.As(err, &e) || e.Op != "recv" || e.VNL != "tap://vdetest0" {
		t.Errorf("got %#v", err)
	}
	plugtest.WantError(t, in.Send(plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60)), "interface vdetest0 was removed")
	wantDrops(t, in.Conn, Drops{})
	_, err = in.Recv(make([]byte, ether.MaxFrame)) // without a read: the poller knows
	plugtest.WantError(t, err, "interface vdetest0 was removed")
}

func TestTAPOpenErrors(t *testing.T) {
	needTAP(t)
	testenv.NoLeaks(t)
	openPlug(t, "tap://vdetest0")
	tests := []struct {
		name, text string
		err        error
	}{
		{"vdetest0", `interface "vdetest0" is in use by another program`, unix.EBUSY},
		{"test0", `interface "test0" is no TAP interface`, unix.EINVAL},
		{"sixteen-bytes-xx", "at most 15 bytes", nil},
	}
	for _, tt := range tests {
		wantOpenError(t, "tap://"+tt.name, tt.text, tt.err)
	}
	for err, text := range map[error]string{
		unix.ENOENT: "no /dev/net/tun: load its module (modprobe tun)",
		unix.ENODEV: "no /dev/net/tun: load its module",
		unix.EACCES: "no access to /dev/net/tun (mode ",
		unix.EMFILE: "opening /dev/net/tun: too many open files",
	} {
		plugtest.WantError(t, explainTunDevice(err), text)
	}
}

// TestTAPForbidden fails for an ordinary user, at the device or in the kernel.
func TestTAPForbidden(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may")
	}
	testenv.NoLeaks(t)
	text := "no permission: it takes CAP_NET_ADMIN, or an interface made for this user (ip tuntap add mode tap user " +
		strconv.Itoa(os.Geteuid()) + " name vdetest0)"
	if err := unix.Faccessat(unix.AT_FDCWD, tunDevice, unix.R_OK|unix.W_OK, unix.AT_EACCESS); err != nil {
		text = "no access to /dev/net/tun (mode "
	}
	wantOpenError(t, "tap://vdetest0", text, fs.ErrPermission)
}

// TestTAPNamespace checks that the interface is in the namespace of the caller.
func TestTAPNamespace(t *testing.T) {
	needTAP(t)
	testenv.NoLeaks(t)
	newNetns(t).do(func() {
		c, err := Open("tap://vdetest0", nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		if _, err := net.InterfaceByName("vdetest0"); err != nil {
			t.Errorf("not in the namespace of the caller: %v", err)
		}
		done := make(chan error)
		go func() { // on another thread
			_, err := net.InterfaceByName("vdetest0")
			done <- err
		}()
		if err := <-done; err == nil {
			t.Error("in the namespace of others")
		}
	})
}

// TestTAPC connects a plug and one in C by a bridge of the host.
func TestTAPC(t *testing.T) {
	needTAP(t)
	testenv.NoLeaks(t)
	ip(t, "link add vdebr0 type bridge")
	t.Cleanup(func() { ip(t, "link del vdebr0") })
	ip(t, "tuntap add mode tap name vdetest1") // so that it is there at once
	t.Cleanup(func() { ip(t, "link del vdetest1") })
	here, there := openInbox(t, "tap://vdetest0"), plugtest.CPlug(t, "tap://vdetest1")
	for _, name := range []string{"vdetest0", "vdetest1"} {
		ip(t, "link set "+name+" master vdebr0 up")
	}
	ip(t, "link set vdebr0 up")
	plugtest.Carry(t, here, there.Inbox, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
	plugtest.CarryBoth(t, here, there.Inbox, 14, 60, 1514)
}

// TestTAPPersistent lets an ordinary user open an interface that was made for it, and no
// other.
func TestTAPPersistent(t *testing.T) {
	needTAP(t)
	var st unix.Stat_t
	if err := unix.Stat(tunDevice, &st); err != nil || st.Mode&0o006 != 0o006 {
		testenv.Skip(t, "%s is not for ordinary users here (chmod 0666)", tunDevice)
	}
	testenv.NoLeaks(t)
	ip(t, "tuntap add mode tap user 65534 name vdetest0")
	t.Cleanup(func() { ip(t, "link del vdetest0") })
	ip(t, "link set vdetest0 up")
	plugtest.AsNobody(t, "TestTAPPersistentUser", "")
	if _, err := net.InterfaceByName("vdetest0"); err != nil {
		t.Errorf("a persistent interface was removed: %v", err)
	}
}

// TestTAPPersistentUser is the ordinary user of TestTAPPersistent.
func TestTAPPersistentUser(t *testing.T) {
	plugtest.ChildArg(t)
	testenv.NoLeaks(t)
	c := openPlug(t, "tap://vdetest0")
	plugtest.Send(t, c, plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 60))
	wantDrops(t, c, Drops{})
	wantOpenError(t, "tap://vdetest1", "ip tuntap add mode tap user 65534 name vdetest1", fs.ErrPermission)
}

// TestTAPAllocs moves frames without allocating.
func TestTAPAllocs(t *testing.T) {
	needTAP(t)
	c := openPlug(t, "tap://vdetest0")
	ip(t, "link set vdetest0 up")
	host := testenv.Must(openPacket("vdetest0"))(t) // an inbox would allocate while Recv waits
	defer host.Close()
	plugtest.CheckAllocs(t, host, c)
}

func TestTAPName(t *testing.T) {
	for name, text := range map[string]string{
		"": "", "t0": "", "eth0.1": "", "fifteen-bytes-x": "",
		"sixteen-bytes-xx": "at most 15 bytes",
		"..":               "not a name",
		"a/b":              `byte '/' has no place`,
		"a b":              "no place",
		"tap%d":            "no place",
		"a:1":              "no place",
		"a\x7f":            "no place",
	} {
		err := checkInterfaceName(name)
		switch {
		case text == "" && err != nil:
			t.Errorf("%q: %v", name, err)
		case text != "":
			plugtest.WantError(t, err, text)
		}
	}
}

// BenchmarkTAP sends to an interface of the host; nothing there reads the frames.
func BenchmarkTAP(b *testing.B) {
	needTAP(b)
	c := openPlug(b, "tap://vdebench0")
	ip(b, "link set vdebench0 up")
	frame := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1), 1514)
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		testenv.Check(b, c.Send(frame))
	}
}
