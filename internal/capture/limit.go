package capture

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// minBlock is the size of the smallest block: its type, and twice its length.
const minBlock = 12

// Limits say when a recording is long enough. Zero fields are no limits.
type Limits struct {
	Frames int64         // of all interfaces
	Bytes  int64         // of the file, with what it had before
	Time   time.Duration // since Limit was called
}

// A Limited writes the recordings of interfaces to another writer, in whole blocks, until a
// limit is reached. Then it closes that, and Write returns [io.EOF].
type Limited struct {
	w      io.WriteCloser
	limits Limits
	timer  *time.Timer // nil without a limit of time

	mu      sync.Mutex // guards the rest
	frames  int64
	bytes   int64
	pending []byte // the beginning of a block
	closed  bool
	err     error // of closing
}

// Limit returns a writer with limits. It owns w, which has got size bytes before.
func Limit(w io.WriteCloser, size int64, l Limits) *Limited {
	d := &Limited{w: w, limits: l, bytes: size}
	if l.Time > 0 {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.timer = time.AfterFunc(l.Time, func() { d.Close() })
	}
	return d
}

// Write implements [io.Writer].
func (d *Limited) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return 0, io.EOF
	}
	had := len(d.pending)
	d.pending = append(d.pending, b...)
	whole, full := 0, false
	for rest := d.pending; len(rest) >= 8 && !full; rest = d.pending[whole:] {
		n := int64(binary.LittleEndian.Uint32(rest[4:]))
		if n < minBlock {
			return 0, errors.New("no block of a recording")
		}
		if n > int64(len(rest)) {
			break
		}
		if d.limits.Bytes > 0 && d.bytes+n > d.limits.Bytes {
			full = true
			break
		}
		if binary.LittleEndian.Uint32(rest) == blockPacket {
			d.frames++
			full = d.frames == d.limits.Frames
		}
		d.bytes += n
		whole += int(n)
	}
	n, err := d.w.Write(d.pending[:whole])
	switch {
	case err != nil:
		return max(0, n-had), err
	case full:
		d.close()
		return max(0, whole-had), io.EOF
	}
	d.pending = append(d.pending[:0], d.pending[whole:]...)
	return len(b), nil
}

// Close closes the other writer, unless a limit has done so, and returns its error. Closing
// twice is harmless.
func (d *Limited) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.close()
	return d.err
}

func (d *Limited) close() {
	if d.closed {
		return
	}
	d.closed = true
	if d.timer != nil {
		d.timer.Stop()
	}
	d.err = d.w.Close()
}

// Check reads a file to its end, and returns its size if another section can be appended: it
// is empty, or consists of whole blocks of the format pcapng.
func Check(r io.Reader) (size int64, err error) {
	b := bufio.NewReaderSize(r, writeSize)
	var order binary.ByteOrder
	for {
		head, err := b.Peek(minBlock)
		if err == io.EOF && len(head) == 0 {
			return size, nil
		}
		if err == io.EOF && (order != nil || bytes.HasPrefix(appendSection(nil), head)) {
			return 0, cutOff(size)
		}
		if err != nil && err != io.EOF {
			return 0, err
		}
		if len(head) == minBlock && binary.LittleEndian.Uint32(head) == blockSection {
			switch uint32(byteOrderMagic) {
			case binary.LittleEndian.Uint32(head[8:]):
				order = binary.LittleEndian
			case binary.BigEndian.Uint32(head[8:]):
				order = binary.BigEndian
			default:
				order = nil
			}
		}
		if order == nil {
			return 0, errors.New("it is not in the format pcapng")
		}
		n := int64(order.Uint32(head[4:]))
		if n < minBlock || n%4 != 0 {
			return 0, fmt.Errorf("it is not in the format pcapng from byte %d on", size)
		}
		for left := n; left > 0; {
			done, err := b.Discard(int(min(left, writeSize)))
			if left -= int64(done); err == io.EOF {
				return 0, cutOff(size)
			}
			if err != nil {
				return 0, err
			}
		}
		size += n
	}
}

func cutOff(size int64) error {
	return fmt.Errorf("it ends within a block (truncate -s %d keeps the whole ones)", size)
}
