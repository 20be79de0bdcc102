package soak

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
)

const (
	// maxPayload is the largest payload of a stream, in bytes.
	maxPayload = 2 << 20
	// chunk is the largest piece that is written at once.
	chunk = 256 << 10
)

// randomSize returns a size of up to max bytes. All orders of magnitude are equally
// likely.
func randomSize(rng *rand.Rand, max int) int {
	return int(math.Exp(rng.Float64()*math.Log(float64(max+1)))) - 1
}

// sendPayload writes a payload of random bytes: its length, the bytes, and
// their hash.
func (s *soak) sendPayload(w io.Writer, rng *rand.Rand, size int) error {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], rng.Uint64())
	random := rand.NewChaCha8(seed)
	buf := make([]byte, min(size, chunk))
	if err := binary.Write(w, binary.BigEndian, uint64(size)); err != nil {
		return err
	}
	hash := sha256.New()
	for size > 0 {
		b := buf[:min(size, 1+randomSize(rng, len(buf)-1))]
		random.Read(b)
		hash.Write(b)
		n, err := w.Write(b)
		s.bytes.Add(uint64(n))
		if err != nil {
			return err
		}
		size -= len(b)
	}
	_, err := w.Write(hash.Sum(nil))
	return err
}

// receivePayload reads a payload and checks its hash.
func receivePayload(r io.Reader) error {
	var size uint64
	if err := binary.Read(r, binary.BigEndian, &size); err != nil {
		return err
	}
	if size > maxPayload {
		return fmt.Errorf("length %d: %w", size, errCorrupt)
	}
	hash := sha256.New()
	if n, err := io.CopyN(hash, r, int64(size)); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("after %d of %d bytes: %w", n, size, err)
	}
	var sum [sha256.Size]byte
	if _, err := io.ReadFull(r, sum[:]); err != nil {
		return err
	}
	if !bytes.Equal(sum[:], hash.Sum(nil)) {
		return fmt.Errorf("%d bytes: %w", size, errCorrupt)
	}
	return nil
}

// payload returns what sendPayload writes.
func (t *task) payload(size int) []byte {
	var b bytes.Buffer
	t.sendPayload(&b, t.rng, size) // a Buffer returns no errors
	return b.Bytes()
}

// checkPacket checks a packet, which has one payload and nothing else.
func checkPacket(p []byte) error {
	r := bytes.NewReader(p)
	if err := receivePayload(r); err != nil || r.Len() > 0 {
		return fmt.Errorf("packet of %d bytes: %w", len(p), errCorrupt)
	}
	return nil
}
