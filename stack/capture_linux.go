//go:build amd64 || arm64

package stack

import (
	"errors"
	"fmt"
	"time"

	"github.com/vdestack/vdestack/internal/capture"
	"github.com/vdestack/vdestack/internal/nic"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/vdeplug"
)

// A recording is the capture of an interface. The pump of the interface records
// packets; if there is none, a packet socket reads them.
type recording struct {
	*capture.Interface
	monitor *nic.Monitor  // nil: the pump records
	ended   chan struct{} // closed at the end of read
}

// startCapture begins the recording, if there is to be one. The interface is not up yet,
// unless it has a pump.
func (i *iface) startCapture() error {
	if i.cfg.Capture == nil {
		return nil
	}
	r := &recording{}
	var err error
	if r.monitor, err = i.link.monitor(); err != nil {
		return fmt.Errorf("a socket for the capture: %w", err)
	}
	r.Interface = capture.Open(i.cfg.Capture, i.cfg.Name, i.s.name+": "+vdeplug.Redact(i.cfg.VNL), func(err error) {
		i.s.log.Warn("the capture has ended", "interface", i.cfg.Name, "error", err)
	})
	i.recording = r
	if r.monitor != nil {
		r.ended = make(chan struct{})
		r.Late(r.monitor.Quiet)
		go r.read()
	}
	return nil
}

// read records the packets of an interface without a pump.
func (r *recording) read() {
	defer close(r.ended)
	defer r.Late(nil)
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

// await waits until read has recorded all, or has ended. Nothing more comes.
func (r *recording) await() {
	const step = 100 * time.Microsecond
	for !r.monitor.Quiet() {
		select {
		case <-r.ended:
			return
		case <-time.After(step):
		}
	}
}

// close ends the recording. It may be called twice.
func (r *recording) close() error {
	if r == nil {
		return nil
	}
	var err error
	if r.monitor != nil {
		if err = r.monitor.Stop(); err == nil {
			r.await()
		}
		r.Missed(r.monitor.Missed())
		err = errors.Join(err, r.monitor.Close())
		<-r.ended
	}
	return errors.Join(err, r.Interface.Close())
}
