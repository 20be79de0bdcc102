package vdeproto

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vdestack/vdestack/internal/fabric"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/packet/packettest"
	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/vdeproto/vdetest"
)

// A plug is a Conn of tests with its transport.
type plug[T packet.Transport] struct {
	plugtest.Conn
	on T
}

func newPlug[T packet.Transport](t testing.TB, on T, err error) plug[T] {
	t.Helper()
	testenv.Check(t, err)
	c := plugtest.NewConn(on)
	t.Cleanup(func() { c.Close() })
	return plug[T]{c, on}
}

// config returns the configuration of vde://dir.
func config(dir string) Config { return Config{Dir: dir, Port: AnyPort, Mode: -1} }

// openPlug connects to the switch in dir.
func openPlug(t testing.TB, dir string) plug[*Conn] {
	t.Helper()
	c, err := Dial(t.Context(), config(dir), nil)
	return newPlug(t, c, err)
}

func openInbox(t *testing.T, dir string) *plugtest.Inbox {
	t.Helper()
	return plugtest.NewInbox(t, openPlug(t, dir))
}

// openSwitch makes a switch in dir, or joins it. mode is for its sockets, dirMode for the
// directory.
func openSwitch(t testing.TB, dir string, mode, dirMode int) plug[*fabric.LocalPort] {
	t.Helper()
	p, err := OpenSwitch(t.Context(), switchConfig(dir, mode, dirMode))
	return newPlug(t, p, err)
}

func switchConfig(dir string, mode, dirMode int) SwitchConfig {
	return SwitchConfig{
		Kind: fabric.Switch, Dir: dir, Mode: mode, DirMode: 0o2700 | dirMode,
		Stations: fabric.DefaultStations, Expire: fabric.DefaultExpire,
	}
}

// commands start a program that makes a switch in a directory.
var commands = map[string]func(t testing.TB, dir string) *exec.Cmd{
	"vde_switch": func(t testing.TB, dir string) *exec.Cmd { return vdetest.Classic(t, dir) },
	"libvdeplug": vdetest.Plug,
	"ours": func(t testing.TB, dir string) *exec.Cmd {
		return testenv.Program(context.Background(), t, "switch", dir)
	},
}

// startSwitch starts one of commands in a new directory.
func startSwitch(t *testing.T, command string) *vdetest.Switch {
	t.Helper()
	dir := filepath.Join(testenv.ShortDir(t), "sw")
	return vdetest.Start(t, dir, commands[command](t, dir), func() error {
		return testenv.Closing(Dial(t.Context(), config(dir), nil))
	})
}

func init() {
	testenv.Programs["switch"] = func() { // ends with its standard input
		p, err := OpenSwitch(context.Background(), switchConfig(os.Args[1], 0o600, 0o700))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		defer p.Close()
		io.Copy(io.Discard, os.Stdin)
	}
}

// TestGSO sends GSO packets between clients of this package and plugs of the process. They
// arrive unchanged.
func TestGSO(t *testing.T) {
	testenv.NoLeaks(t)
	dir := filepath.Join(testenv.ShortDir(t), "sw")
	local := openSwitch(t, dir, 0o600, 0o700)
	one, other := openPlug(t, dir), openPlug(t, dir)
	if !one.on.gso || !other.on.gso {
		t.Fatal("no pair of sockets")
	}
	ends := []packet.Transport{one.on, other.on, local.on}
	for i, a := range ends {
		b := ends[(i+1)%len(ends)]
		for j, from := range []packet.Transport{a, b} {
			hello := plugtest.TestFrame(plugtest.Broadcast, plugtest.Station(1+j), 60)
			testenv.Check(t, from.SendPackets([]packet.Packet{{Data: hello}}, true))
			for _, to := range ends {
				if to != from {
					plugtest.Collect(t, to, [][]byte{hello})
				}
			}
		}
		p := packettest.TCP(44, 1446)
		want := bytes.Clone(p.Data)
		testenv.Check(t, a.SendPackets([]packet.Packet{p}, true))
		var buf packet.Buffer
		got, err := b.RecvPackets(&buf)
		if err != nil || len(got) != 1 || got[0].Offload != p.Offload || !bytes.Equal(got[0].Data, want) {
			t.Errorf("from end %d: got %d packets, %v, want the same one", i, len(got), err)
		}
		buf.Release()
	}
}

// TestOpenSwitchStopped opens and closes a switch while another waits for one that does not
// answer, in another directory.
func TestOpenSwitchStopped(t *testing.T) {
	testenv.NoLeaks(t)
	dir, other := testenv.ShortDir(t), filepath.Join(testenv.ShortDir(t), "s")
	stopped := testenv.Must(net.Listen("unix", filepath.Join(dir, "ctl")))(t)
	defer stopped.Close()
	ctx, cancel := context.WithCancel(t.Context())
	opened := make(chan error)
	go func() {
		opened <- testenv.Closing(OpenSwitch(ctx, switchConfig(dir, 0o600, 0o700)))
	}()
	asked := testenv.Must(stopped.Accept())(t)
	defer asked.Close()
	s := openSwitch(t, other, 0o600, 0o700)
	testenv.Check(t, s.Close())
	cancel()
	if err := <-opened; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v while the other switch was waited for, want %v", err, context.Canceled)
	}
}
