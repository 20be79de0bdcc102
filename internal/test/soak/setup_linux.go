package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv/private"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// tools are the paths of programs; empty: missing.
type tools struct{ vdeSwitch, vdePlug, ip string }

func (s *soak) findTools() {
	find := func(name, pkg string) string {
		path, err := private.Find(name, pkg)
		if err != nil {
			s.printf("soak: left out: %v", err)
		}
		return path
	}
	s.tools = tools{vdeSwitch: find("vde_switch", "vde2"), vdePlug: find("vde_plug", "vdeplug"), ip: find("ip", "iproute2")}
}

// findInherited records the descriptors that the program was started with, which its
// children inherit too.
func (s *soak) findInherited() {
	s.inherited = make(map[int]bool)
	for fd := range links("/proc/self/fd") {
		n, _ := strconv.Atoi(fd)
		if flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			s.inherited[n] = true
		}
	}
}

// warmUp makes what the process makes once and keeps: the helper task, the descriptors of
// the poller, threads.
func (s *soak) warmUp() error {
	st, err := vdestack.Open("")
	if err != nil {
		return err
	}
	err = st.Command(context.Background(), "true").Run()
	if cerr := st.Close(); err == nil {
		err = cerr
	}
	return err
}

// startNetworks makes the networks that are possible on this machine.
func (t *task) startNetworks() error {
	t.addNetwork(&network{name: "lo", max: 4})
	if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		t.printf("soak: left out: all networks but loopback: %v", err)
		return nil
	} else {
		f.Close()
	}
	t.addNetwork(&network{name: "mem", max: 4, vnl: "mem://soak"})
	t.addNetwork(&network{name: "lan", max: 4, vnl: "lan://soak"})
	t.addNetwork(&network{name: "ptp", max: 2, vnl: "ptp://" + filepath.Join(t.dir, "ptp")})
	ends := make(chan string, 2)
	ends <- "udp://127.0.0.1:4701->127.0.0.1:4702"
	ends <- "udp://127.0.0.1:4702->127.0.0.1:4701"
	t.addNetwork(&network{name: "udp", max: 2, ends: ends})

	const group = "vxvde://239.255.47.89"
	if c, err := vdeplug.OpenContext(t.ctx, group, nil); err != nil {
		t.printf("soak: left out: vxvde: %v", err)
	} else {
		c.Close()
		t.addNetwork(&network{name: "vxvde", max: 4, plug: true, vnl: group})
	}

	if t.tools.vdeSwitch != "" {
		dir := filepath.Join(t.dir, "sw0")
		err := t.addFabric(&network{name: "vde", max: 4},
			&half{dir: dir, argv: []string{t.tools.vdeSwitch, "-s", dir}})
		if err != nil {
			return err
		}
	}
	if t.tools.vdePlug != "" {
		var halves []*half
		for _, name := range []string{"sw1", "sw2"} {
			dir := filepath.Join(t.dir, name)
			halves = append(halves, &half{dir: dir, argv: []string{t.tools.vdePlug, "switch://" + dir}})
		}
		return t.addFabric(&network{name: "switches", max: 4, plug: true}, halves...)
	}
	return nil
}

// addFabric makes a network of switches, and starts them.
func (t *task) addFabric(n *network, halves ...*half) error {
	n.fabric = &fabric{net: n, tools: t.tools, halves: halves}
	t.addNetwork(n)
	return n.fabric.start(t.ctx)
}

func (t *task) addNetwork(n *network) {
	n.index = len(t.nets)
	t.nets = append(t.nets, n)
}
