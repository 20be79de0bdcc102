package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// tools are the programs that there are; empty: missing.
type tools struct{ vdeSwitch, vdePlug, ip string }

func (s *soak) findTools() {
	find := func(name, pkg string) string {
		for _, dir := range []string{"", "/usr/sbin/", "/sbin/"} {
			if path, err := exec.LookPath(dir + name); err == nil {
				return path
			}
		}
		s.printf("soak: left out: %s is missing (apt-get install %s)", name, pkg)
		return ""
	}
	s.tools = tools{vdeSwitch: find("vde_switch", "vde2"), vdePlug: find("vde_plug", "vdeplug"), ip: find("ip", "iproute2")}
}

// findInherited notes the descriptors that the program was started with, and so
// hands on.
func (s *soak) findInherited() {
	s.inherited = make(map[int]bool)
	for fd := range links("/proc/self/fd") {
		n, _ := strconv.Atoi(fd)
		if flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			s.inherited[n] = true
		}
	}
}

// warmUp makes what is made once and stays: the helper task of the process, the
// descriptors of the poller, the threads.
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

// startNetworks makes the networks that this machine can have.
func (t *task) startNetworks() error {
	t.addNetwork(&network{name: "lo", max: 4})
	if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		t.printf("soak: left out: all networks but loopback: %v", err)
		return nil
	} else {
		f.Close()
	}
	mem := func(name string) func() string { return func() string { return "mem://" + name } }
	t.addNetwork(&network{name: "mem", max: 4, vnl: mem("soak")})
	t.addNetwork(&network{name: "mem2", max: 2, vnl: mem("soak2")})
	for i := range 2 {
		path := filepath.Join(t.dir, fmt.Sprint("ptp", i))
		t.addNetwork(&network{name: fmt.Sprint("ptp", i), max: 2, vnl: func() string { return "ptp://" + path }})
	}

	const group = "vxvde://239.255.47.89"
	if c, err := vdeplug.OpenContext(t.ctx, group, nil); err != nil {
		t.printf("soak: left out: vxvde: %v", err)
	} else {
		c.Close()
		t.addNetwork(&network{name: "vxvde", max: 4, plug: true, vnl: func() string { return group }})
	}

	if t.tools.vdeSwitch == "" {
		return nil
	}
	for i, halves := range []int{1, 2} {
		if halves > 1 && t.tools.vdePlug == "" {
			break // there is no cable
		}
		f := &fabric{tools: t.tools}
		for j := range halves {
			f.halves = append(f.halves, &half{dir: filepath.Join(t.dir, fmt.Sprintf("sw%d%d", i, j))})
		}
		f.net = &network{name: []string{"vde", "vde2"}[i], max: 4, plug: true, fabric: f}
		t.addNetwork(f.net)
		if err := f.start(t.ctx); err != nil {
			return err
		}
	}
	return nil
}

func (t *task) addNetwork(n *network) {
	n.index = len(t.nets)
	t.nets = append(t.nets, n)
}
