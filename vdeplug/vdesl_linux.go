package vdeplug

import (
	"context"
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

func init() {
	Register("vdesl", openVDESL)
	Describe("vdesl", Usage{
		Form:    "vdesl://DEVICE[[OPTIONS]]",
		About:   "the VDE stream format on a serial line",
		Options: []Option{{Name: "speed", Value: "N", Default: "38400", About: "bits a second"}},
	})
}

// openVDESL speaks the stream format on a serial line:
//
//	vdesl://device[[speed=N]]
//
// The line has 8 bits, no parity and no flow control.
//
//   - speed is in bits a second, 38400 by default.
//
// A line loses bytes. A frame that stops for a tenth of a second, or begins with a
// length that none has, is dropped, and the next one is looked for after a pause.
func openVDESL(_ context.Context, l Locator, _ *Options) (Conn, error) {
	cfg, err := parseVDESL(l)
	if err != nil {
		return nil, err
	}
	line, err := openLine(cfg)
	if err != nil {
		return nil, err
	}
	s := newStream(line)
	line.dropped = &s.DroppedRecv
	return newPlug(l.String(), s), nil
}

// A lineSpeed is one of termios(3).
type lineSpeed struct {
	bits int
	flag uint32
}

var lineSpeeds = []lineSpeed{
	{9600, unix.B9600}, {19200, unix.B19200}, {38400, unix.B38400}, {57600, unix.B57600}, {115200, unix.B115200},
	{230400, unix.B230400}, {460800, unix.B460800}, {500000, unix.B500000}, {576000, unix.B576000}, {921600, unix.B921600},
	{1000000, unix.B1000000}, {1152000, unix.B1152000}, {1500000, unix.B1500000}, {2000000, unix.B2000000},
	{2500000, unix.B2500000}, {3000000, unix.B3000000}, {3500000, unix.B3500000}, {4000000, unix.B4000000},
}

// vdeslConfig is what a vdesl locator says.
type vdeslConfig struct {
	device string
	speed  lineSpeed
}

func parseVDESL(l Locator) (vdeslConfig, error) {
	t, err := l.Bracketed()
	if err != nil {
		return vdeslConfig{}, err
	}
	cfg := vdeslConfig{t.Addr, lineSpeed{38400, unix.B38400}}
	err = t.Options(map[string]func(string, bool) error{
		"speed": func(v string, _ bool) error {
			n, err := strconv.Atoi(v)
			i := slices.IndexFunc(lineSpeeds, func(s lineSpeed) bool { return s.bits == n })
			if err != nil || i < 0 {
				var all []string
				for _, s := range lineSpeeds {
					all = append(all, strconv.Itoa(s.bits))
				}
				return errors.New("must be one of " + strings.Join(all, ", "))
			}
			cfg.speed = lineSpeeds[i]
			return nil
		},
	})
	if err == nil && cfg.device == "" {
		err = errors.New("no device given")
	}
	return cfg, err
}

const (
	// lineGap is the pause that ends a frame.
	lineGap = 100 * time.Millisecond
	// lineBuffer holds the longest frame, and what comes with it.
	lineBuffer = 2 * (streamHeaderLen + maxStreamFrame)
)

// A line is a terminal as a stream of whole frames.
type line struct {
	f       *os.File
	raw     syscall.RawConn
	old     unix.Termios
	dropped *atomic.Uint64

	// Of Read, which serves one caller at a time.
	in  []byte // received
	out []byte // the part of in that is a frame, as far as it was not read
}

var _ io.ReadWriteCloser = (*line)(nil)

func openLine(cfg vdeslConfig) (_ *line, err error) {
	// Without O_NONBLOCK, some would wait for a modem.
	fd, err := unix.Open(cfg.device, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: cfg.device, Err: err}
	}
	s := &line{in: make([]byte, 0, lineBuffer)}
	if err := s.configure(fd, cfg); err != nil {
		unix.Close(fd)
		return nil, err
	}
	p, err := sockio.NewPollFile(fd, cfg.device)
	s.f, s.raw = p.File, p.Raw
	return s, err
}

func (s *line) configure(fd int, cfg vdeslConfig) error {
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return fmt.Errorf("%s is no serial line: %w", cfg.device, os.NewSyscallError("ioctl TCGETS", err))
	}
	s.old = *old
	t := *old
	t.Iflag = unix.IGNBRK | unix.IGNPAR
	t.Oflag = 0
	t.Lflag = 0
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB|unix.CSTOPB|unix.CRTSCTS|unix.CBAUD) | unix.CS8 | unix.CREAD | unix.CLOCAL | cfg.speed.flag
	t.Ispeed, t.Ospeed = uint32(cfg.speed.bits), uint32(cfg.speed.bits)
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0 // with 0, nothing to read would look like the end
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &t); err != nil {
		return fmt.Errorf("%s: %w", cfg.device, os.NewSyscallError("ioctl TCSETS", err))
	}
	if now, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil || now.Cflag&unix.CBAUD != cfg.speed.flag {
		return fmt.Errorf("%s does not have the speed %d", cfg.device, cfg.speed.bits)
	}
	return os.NewSyscallError("ioctl TCFLSH", unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIOFLUSH))
}

// Read returns bytes of whole frames only, each after its length.
func (s *line) Read(b []byte) (int, error) {
	for len(s.out) == 0 {
		if err := s.frame(); err != nil {
			return 0, err
		}
	}
	n := copy(b, s.out)
	if s.out = s.out[n:]; len(s.out) == 0 {
		// What came after the frame is the beginning of the next.
		end := streamHeaderLen + int(binary.BigEndian.Uint16(s.in))
		s.in = s.in[:copy(s.in, s.in[end:])]
	}
	return n, nil
}

// frame receives until out is a frame, or what came is dropped.
func (s *line) frame() error {
	pause, err := s.fill(streamHeaderLen)
	if err != nil || pause {
		return s.drop(err)
	}
	n := int(binary.BigEndian.Uint16(s.in))
	if n > maxStreamFrame {
		for !pause && err == nil {
			s.in = s.in[:0]
			pause, err = s.more(true)
		}
		return s.drop(err)
	}
	if pause, err = s.fill(streamHeaderLen + n); err != nil || pause {
		return s.drop(err)
	}
	s.out = s.in[:streamHeaderLen+n]
	return nil
}

func (s *line) drop(err error) error {
	s.in = s.in[:0]
	if err == nil {
		s.dropped.Add(1)
	}
	return err
}

// fill receives until there are n bytes. It reports a pause in what has begun.
func (s *line) fill(n int) (pause bool, err error) {
	for len(s.in) < n && !pause && err == nil {
		pause, err = s.more(len(s.in) > 0)
	}
	return pause, err
}

// more receives something. If a frame has begun it reports a pause.
func (s *line) more(begun bool) (pause bool, err error) {
	var deadline time.Time
	if begun {
		deadline = time.Now().Add(lineGap)
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

// Close does not wait until all that was written has left, and leaves the line as
// it was.
func (s *line) Close() error {
	s.raw.Control(func(fd uintptr) {
		unix.IoctlSetInt(int(fd), unix.TCFLSH, unix.TCIOFLUSH)
		unix.IoctlSetTermios(int(fd), unix.TCSETS, &s.old)
	})
	return s.f.Close()
}
