//go:build amd64 || arm64

package stack

import (
	"errors"
	"fmt"
	"time"

	"github.com/vdestack/vdestack/internal/capture"
	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

// drainCapture bounds how long Close waits until all that has crossed an
// interface of the kernel is recorded.
const drainCapture = time.Second

// A recording is the capture of an interface. The frames of one that has a pump are
// recorded there; those of one that is joined in the kernel are read by a packet
// socket.
type recording struct {
	*capture.Interface
	monitor *nic.Monitor  // nil: the pump records
	ended   chan struct{} // closed when all is read
}

// startCapture begins to record an interface, if it is to be recorded. An interface
// that is joined in the kernel is there, and not yet up.
func (i *iface) startCapture(nl *rtnl.Conn) error {
	if i.cfg.Capture == nil {
		return nil
	}
	r := &recording{}
	if i.lan != nil {
		if err := i.findIndex(nl); err != nil {
			return err
		}
		fd, err := i.s.ns.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err == nil {
			r.monitor, err = nic.NewMonitor(fd, i.index)
		}
		if err == nil {
			if fd, err = i.s.ns.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0); err == nil {
				err = nic.AwaitTimes(fd)
			}
			if err != nil {
				r.monitor.Close()
			}
		}
		if err != nil {
			return fmt.Errorf("a socket for the capture: %w", err)
		}
		r.ended = make(chan struct{})
	}
	r.Interface = capture.Open(i.cfg.Capture, i.cfg.Name, i.s.name+": "+i.cfg.VNL, func(err error) {
		i.s.log.Warn("the capture has ended", "interface", i.cfg.Name, "error", err)
	})
	i.recording = r
	if r.monitor != nil {
		r.Late(r.monitor.Quiet)
		go r.read()
	}
	return nil
}

// read records what crosses an interface of the kernel.
func (r *recording) read() {
	defer close(r.ended)
	var b packet.Buffer
	defer b.Release()
	for {
		packets, seen, err := r.monitor.Read(&b)
		if err != nil {
			return
		}
		r.Missed(r.monitor.Missed())
		r.SeenAt(packets, func(j int) (out bool, ns int64) { return seen[j].Sent, seen[j].Time })
	}
}

// close ends the recording. It may be called twice.
func (r *recording) close() error {
	if r == nil {
		return nil
	}
	var err error
	if r.monitor != nil {
		drain(r.monitor, drainCapture)
		r.Missed(r.monitor.Missed())
		err = r.monitor.Close()
		<-r.ended
	}
	return errors.Join(err, r.Interface.Close())
}
