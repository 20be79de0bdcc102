package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vdestack/vdestack/internal/sockio"
)

// A Speed is a line speed of termios(3).
type Speed struct {
	Bits int
	flag uint32
}

var speeds = []Speed{
	{9600, unix.B9600}, {19200, unix.B19200}, {38400, unix.B38400}, {57600, unix.B57600}, {115200, unix.B115200},
	{230400, unix.B230400}, {460800, unix.B460800}, {500000, unix.B500000}, {576000, unix.B576000}, {921600, unix.B921600},
	{1000000, unix.B1000000}, {1152000, unix.B1152000}, {1500000, unix.B1500000}, {2000000, unix.B2000000},
	{2500000, unix.B2500000}, {3000000, unix.B3000000}, {3500000, unix.B3500000}, {4000000, unix.B4000000},
}

const (
	// frameGap is the pause after which a frame counts as torn.
	frameGap = 100 * time.Millisecond
	// lineBuffer has room for the longest frame, and for bytes read along with it.
	lineBuffer = 2 * (headerLen + maxFrame)
)

// A line is a serial line as a stream of complete frames. Lines lose bytes: a frame that
// pauses for frameGap, or begins with an invalid length, is dropped, and the next frame is
// expected after a pause.
type line struct {
	f       *os.File
	raw     syscall.RawConn
	old     unix.Termios
	dropped *atomic.Uint64

	// Only Read uses these, and it has one caller at a time.
	in  []byte // received
	out []byte // the part of the frame at the start of in that was not read yet
}

var _ io.ReadWriteCloser = (*line)(nil)

// DefaultSpeed is the speed of a line by default.
var DefaultSpeed = Speed{38400, unix.B38400}

// ParseSpeed parses a speed in bits per second.
func ParseSpeed(bits string) (Speed, error) {
	n, err := strconv.Atoi(bits)
	i := slices.IndexFunc(speeds, func(s Speed) bool { return s.Bits == n })
	if err != nil || i < 0 {
		var all []string
		for _, s := range speeds {
			all = append(all, strconv.Itoa(s.Bits))
		}
		return Speed{}, errors.New("must be one of " + strings.Join(all, ", "))
	}
	return speeds[i], nil
}

// NewLine opens a serial line with 8 bits, no parity and no flow control, and returns the
// stream on it.
func NewLine(device string, speed Speed) (*Stream, error) {
	// Without O_NONBLOCK, Open may wait for a modem.
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: device, Err: err}
	}
	l := &line{in: make([]byte, 0, lineBuffer)}
	if err := l.configure(fd, device, speed); err != nil {
		unix.Close(fd)
		return nil, err
	}
	p, err := sockio.NewPollFile(fd, device)
	if err != nil {
		return nil, err
	}
	l.f, l.raw = p.File, p.Raw
	s := New(l)
	l.dropped = &s.DroppedRecv
	return s, nil
}

func (s *line) configure(fd int, device string, speed Speed) error {
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return fmt.Errorf("%s is not a serial line: %w", device, os.NewSyscallError("ioctl TCGETS", err))
	}
	s.old = *old
	t := *old
	t.Iflag = unix.IGNBRK | unix.IGNPAR
	t.Oflag = 0
	t.Lflag = 0
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB|unix.CSTOPB|unix.CRTSCTS|unix.CBAUD) | unix.CS8 | unix.CREAD | unix.CLOCAL | speed.flag
	t.Ispeed, t.Ospeed = uint32(speed.Bits), uint32(speed.Bits)
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0 // with VMIN 0, an idle line looks closed
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &t); err != nil {
		return fmt.Errorf("%s: %w", device, os.NewSyscallError("ioctl TCSETS", err))
	}
	if now, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil || now.Cflag&unix.CBAUD != speed.flag {
		return fmt.Errorf("%s does not have the speed %d", device, speed.Bits)
	}
	return os.NewSyscallError("ioctl TCFLSH", unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIOFLUSH))
}

// Read returns only complete frames, each after its length.
func (s *line) Read(b []byte) (int, error) {
	for len(s.out) == 0 {
		if err := s.frame(); err != nil {
			return 0, err
		}
	}
	n := copy(b, s.out)
	if s.out = s.out[n:]; len(s.out) == 0 {
		// The bytes after the frame begin the next one.
		end := headerLen + int(binary.BigEndian.Uint16(s.in))
		s.in = s.in[:copy(s.in, s.in[end:])]
	}
	return n, nil
}

// frame receives until out has a frame, or the received bytes are dropped.
func (s *line) frame() error {
	pause, err := s.fill(headerLen)
	if err != nil || pause {
		return s.drop(err)
	}
	n := int(binary.BigEndian.Uint16(s.in))
	if n > maxFrame {
		for !pause && err == nil {
			s.in = s.in[:0]
			pause, err = s.more(true)
		}
		return s.drop(err)
	}
	if pause, err = s.fill(headerLen + n); err != nil || pause {
		return s.drop(err)
	}
	s.out = s.in[:headerLen+n]
	return nil
}

// drop drops the received bytes, and counts a frame unless there was an error.
func (s *line) drop(err error) error {
	s.in = s.in[:0]
	if err == nil {
		s.dropped.Add(1)
	}
	return err
}

// fill receives until in has n bytes. It reports a pause within a frame.
func (s *line) fill(n int) (pause bool, err error) {
	for len(s.in) < n && !pause && err == nil {
		pause, err = s.more(len(s.in) > 0)
	}
	return pause, err
}

// more receives some bytes. If a frame has begun, it reports a pause.
func (s *line) more(begun bool) (pause bool, err error) {
	var deadline time.Time
	if begun {
		deadline = time.Now().Add(frameGap)
	}
	s.f.SetReadDeadline(deadline)
	n, err := s.f.Read(s.in[len(s.in):cap(s.in)])
	s.in = s.in[:len(s.in)+n]
	switch {
	case n > 0:
		return false, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return true, nil
	case errors.Is(err, unix.EIO):
		err = io.EOF // it was hung up
	}
	return false, err
}

func (s *line) Write(b []byte) (int, error) { return s.f.Write(b) }

// Close discards output that was not transmitted, and restores the settings of the line.
func (s *line) Close() error {
	s.raw.Control(func(fd uintptr) {
		unix.IoctlSetInt(int(fd), unix.TCFLSH, unix.TCIOFLUSH)
		unix.IoctlSetTermios(int(fd), unix.TCSETS, &s.old)
	})
	return s.f.Close()
}
