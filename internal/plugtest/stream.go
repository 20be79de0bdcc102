package plugtest

import (
	"bufio"
	"encoding/binary"
	"io"
	"sync"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
)

// A stream is a plug on pipes to and from a program, with the length of each frame in
// two bytes before it. Send waits, up to testenv.Timeout.
type stream struct {
	pipes
	r  *bufio.Reader
	mu sync.Mutex // held by Send
}

func newStream(p pipes) Conn { return &stream{pipes: p, r: bufio.NewReaderSize(p, 64<<10)} }

func (s *stream) Recv(frame []byte) (int, error) {
	var head [2]byte
	if _, err := io.ReadFull(s.r, head[:]); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n > len(frame) {
		return 0, io.ErrShortBuffer
	}
	return io.ReadFull(s.r, frame[:n])
}

func (s *stream) Send(frame []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w, ok := s.w.(interface{ SetWriteDeadline(time.Time) error }); ok {
		w.SetWriteDeadline(time.Now().Add(testenv.Timeout))
	}
	_, err := s.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(frame))), frame...))
	return err
}
