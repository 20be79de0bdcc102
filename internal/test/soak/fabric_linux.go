package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// A process is a program that the run has started, and may kill. It ends with its standard
// input, and so with the run, however that ends.
type process struct {
	cmd   *exec.Cmd
	stdin *os.File
	ended chan struct{} // closed when it was waited for
}

func start(argv ...string) (*process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	p := &process{cmd: exec.Command(argv[0], argv[1:]...), stdin: w, ended: make(chan struct{})}
	p.cmd.Stdin = r
	if err := p.cmd.Start(); err != nil {
		w.Close()
		return nil, err
	}
	go func() {
		defer close(p.ended)
		p.cmd.Wait()
	}()
	return p, nil
}

// kill ends the process as a crash does.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.ended
	p.stdin.Close()
}

// A half is one of the switches of a fabric.
type half struct {
	dir  string
	argv []string // starts it
	*process
}

func (h *half) vnl() string { return "vde://" + h.dir }

// A fabric is one switch, or two switches joined by a vde_plug as cable.
type fabric struct {
	mu     sync.Mutex // held while something is killed and started again
	net    *network
	tools  tools
	halves []*half
	cable  *process
}

// start starts the switches and the cable unless they run.
func (f *fabric) start(ctx context.Context) error {
	for _, h := range f.halves {
		if h.process != nil {
			continue
		}
		// A switch that was killed leaves files, and its clients may add some until they
		// notice.
		var err error
		if !within(time.Second, func() bool { err = os.RemoveAll(h.dir); return err == nil }) {
			return err
		}
		p, err := start(h.argv...)
		if err != nil {
			return err
		}
		h.process = p
		for {
			c, err := vdeplug.OpenContext(ctx, h.vnl(), nil)
			if err == nil {
				c.Close()
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("the switch that was started does not answer: %w", err)
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	if f.cable == nil && len(f.halves) > 1 {
		p, err := start(f.tools.vdePlug, f.halves[0].vnl(), f.halves[1].vnl())
		if err != nil {
			return err
		}
		f.cable = p
		return f.joined(ctx)
	}
	return nil
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
func (f *fabric) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cable != nil {
		f.cable.kill()
	}
	for _, h := range f.halves {
		if h.process != nil {
			h.kill()
		}
	}
}

// repair starts again the programs that were killed.
func (f *fabric) repair(t *task, repaired func()) error {
	// The cable ends with either of its switches.
	if f.cable != nil {
		select {
		case <-f.cable.ended:
			f.cable.stdin.Close()
			f.cable = nil
		default:
		}
	}
	err := f.start(t.ctx)
	if err == nil {
		repaired()
	}
	return err
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
	f.halves[which].kill()
	f.halves[which].process = nil
	if f.cable != nil {
		select {
		case <-f.cable.ended:
		case <-t.ctx.Done():
			return fmt.Errorf("the vde_plug between two switches runs on without one of them")
		}
	}
	for _, m := range cut {
		if err := m.dead(t.ctx); err != nil {
			return err
		}
	}
	return f.repair(t, repaired)
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
	repaired := f.net.disturb()
	f.cable.kill()
	f.cable = nil
	return f.repair(t, repaired)
}

// A peer is a vde_plug through which a stack joins a network. It is the child of the
// stack's cmd:// plug.
type peer struct {
	soak   *soak
	direct string // the network
	file   string // where it writes its number

	mu    sync.Mutex // guards pidfd
	pidfd int        // -1: unknown
}

var peers atomic.Uint64

func newPeer(s *soak, vnl string) *peer {
	return &peer{soak: s, direct: vnl, file: filepath.Join(s.dir, fmt.Sprint("peer", peers.Add(1))), pidfd: -1}
}

func (p *peer) vnl() string {
	return fmt.Sprintf("cmd://sh -c 'echo $$ >%s; exec %s %s 2>/dev/null'", p.file, p.soak.tools.vdePlug, p.direct)
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
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	p.mu.Lock()
	p.pidfd = fd
	p.mu.Unlock()
	// It may have ended already, and its number may belong to another process.
	if parent(pid) != os.Getpid() {
		p.forget()
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

// kill kills the process, and reports whether it existed.
func (p *peer) kill() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pidfd >= 0 && unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0) == nil
}

// forget releases the descriptor of the process, which the stack's plug ends. The peer may
// be nil.
func (p *peer) forget() {
	if p == nil {
		return
	}
	os.Remove(p.file)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd >= 0 {
		unix.Close(p.pidfd)
		p.pidfd = -1
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
	if !m.via.kill() {
		return errSkip
	}
	return m.dead(t.ctx)
}
