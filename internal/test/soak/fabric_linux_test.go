package soak

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// start starts a program, which the run may kill. It ends with its standard input, and so
// with the run, however that ends.
func start(t testing.TB, argv ...string) *plugtest.Process {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.StdinPipe() // without a descriptor Start has the error
	return plugtest.Start(t, cmd)
}

// A half is one of the switches of a fabric.
type half struct {
	dir  string
	argv []string // starts it
	*plugtest.Process
}

func (h *half) vnl() string { return "vde://" + h.dir }

// A fabric is one switch, or two switches joined by a vde_plug as cable.
type fabric struct {
	mu     sync.Mutex // held while something is killed and started again
	net    *network
	halves []*half
	cable  *plugtest.Process
}

// start starts the switches and the cable unless they run.
func (f *fabric) start(t *task) error {
	for _, h := range f.halves {
		if h.Process != nil {
			continue
		}
		// A switch that was killed leaves files, and its clients may add some until they
		// notice.
		var err error
		if !t.wait(func() bool { err = os.RemoveAll(h.dir); return err == nil }) {
			return err
		}
		h.Process = start(t, h.argv...)
		if !t.wait(func() bool { err = testenv.Closing(vdeplug.OpenContext(t.ctx, h.vnl(), nil)); return err == nil }) {
			return fmt.Errorf("the switch that was started does not answer: %w", err)
		}
	}
	if f.cable == nil && len(f.halves) > 1 {
		f.cable = start(t, t.vdePlug, f.halves[0].vnl(), f.halves[1].vnl())
		return f.joined(t.ctx)
	}
	return nil
}

// wait calls f until it returns true, and reports whether it did so in the time of the task.
func (t *task) wait(f func() bool) bool {
	for !f() {
		select {
		case <-t.ctx.Done():
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
	return true
}

// joined waits until frames pass the cable.
func (f *fabric) joined(ctx context.Context) error {
	from, err := vdeplug.OpenContext(ctx, f.halves[0].vnl(), nil)
	if err != nil {
		return err
	}
	defer from.Close()
	mac := net.HardwareAddr{2, 0xca, 0xb1, 0xe, 0, 0}
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac...)
	frame = append(frame, 0x88, 0xb5) // for experiments, IEEE Std 802
	frame = append(frame, make([]byte, 46)...)
	return awaitFrame(ctx, f.halves[1].vnl(), mac, func() error { return from.Send(frame) })
}

// awaitFrame waits for a frame from mac on a network, and calls send again and again.
func awaitFrame(ctx context.Context, vnl string, mac net.HardwareAddr, send func() error) error {
	c, err := vdeplug.OpenContext(ctx, vnl, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	received := make(chan error, 1)
	go func() {
		frame := make([]byte, vdeplug.MaxFrame)
		for {
			n, err := c.Recv(frame)
			if err != nil {
				received <- err
				return
			}
			if n >= 12 && string(frame[6:12]) == string(mac) {
				received <- nil
				return
			}
		}
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if err = send(); err != nil {
			break
		}
		select {
		case err := <-received:
			return err
		case <-ctx.Done():
			err = fmt.Errorf("no frame from %v arrives on %s: %w", mac, vnl, ctx.Err())
		case <-tick.C:
		}
		if err != nil {
			break
		}
	}
	c.Close()
	<-received
	return err
}

// stop ends all programs.
func (f *fabric) stop(t *task) {
	if f.cable != nil {
		f.cable.Kill(t)
	}
	for _, h := range f.halves {
		if h.Process != nil {
			h.Kill(t)
		}
	}
}

// fabric returns a network with switches that no other task kills now, locked.
func (t *task) fabric() *fabric {
	for _, i := range t.rng.Perm(len(t.nets)) {
		if f := t.nets[i].fabric; f != nil && f.mu.TryLock() {
			return f
		}
	}
	return nil
}

// doKillSwitch kills a switch, checks that its stacks notice, and starts it again.
func (t *task) doKillSwitch() error {
	f := t.fabric()
	if f == nil {
		return errSkip
	}
	defer f.mu.Unlock()
	which := t.rng.IntN(len(f.halves))
	repaired := f.net.disturb()
	t.soak.mu.Lock()
	var cut []*member
	for _, m := range t.live {
		if m.net == f.net && m.half == which && !m.cut.Swap(true) {
			cut = append(cut, m)
		}
	}
	t.soak.mu.Unlock()
	f.halves[which].Kill(t)
	f.halves[which].Process = nil
	if f.cable != nil { // it ends with either of its switches
		select {
		case <-f.cable.Ended:
			f.cable = nil
		case <-t.ctx.Done():
			return fmt.Errorf("the vde_plug between two switches runs on without one of them")
		}
	}
	for _, m := range cut {
		if err := m.dead(t); err != nil {
			return err
		}
	}
	defer repaired()
	return f.start(t)
}

// doKillCable kills the vde_plug between the switches and starts another one.
func (t *task) doKillCable() error {
	f := t.fabric()
	if f == nil {
		return errSkip
	}
	defer f.mu.Unlock()
	if f.cable == nil {
		return errSkip
	}
	defer f.net.disturb()()
	f.cable.Kill(t)
	f.cable = nil
	return f.start(t)
}

// A peer is a vde_plug through which a stack joins a network. It is the child of the
// stack's cmd:// plug.
type peer struct {
	direct  string // the network
	file    string // where it writes its number
	process *os.Process
}

// ready waits until frames of the stack arrive on the network, and finds the process that
// carries them.
func (p *peer) ready(t *task, m *member, mac net.HardwareAddr) error {
	c, err := m.st.ListenPacket("udp4", ":0")
	if err != nil {
		return err
	}
	defer c.Close()
	all := &net.UDPAddr{IP: net.IPv4(10, byte(m.net.index), 255, 255), Port: 9}
	err = awaitFrame(t.ctx, p.direct, mac, func() error {
		_, err := c.WriteTo([]byte("here"), all)
		return err
	})
	if err != nil {
		return err
	}
	text, err := os.ReadFile(p.file)
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	if p.process, err = os.FindProcess(pid); err != nil {
		return err
	}
	// It may have ended already, and its number may belong to another process.
	if parent(pid) != os.Getpid() {
		return unix.ESRCH
	}
	return nil
}

// parent returns the number of a process's parent; -1 if the process has ended.
func parent(pid int) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(text), "\nPPid:")
	n := -1
	fmt.Sscan(rest, &n)
	return n
}

// forget releases the process, which the stack's plug ends. The peer may be nil.
func (p *peer) forget() {
	if p == nil {
		return
	}
	os.Remove(p.file)
	if p.process != nil {
		p.process.Release()
	}
}

// doKillPeer kills the vde_plug of a stack, and checks that the stack notices.
func (t *task) doKillPeer() error {
	t.soak.mu.Lock()
	var m *member
	for _, o := range t.live {
		if o.via != nil && !o.doomed() {
			m = o
		}
	}
	t.soak.mu.Unlock()
	if m == nil || m.cut.Swap(true) {
		return errSkip
	}
	if m.via.process.Kill() != nil {
		return errSkip
	}
	return m.dead(t)
}
