package main

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

// fill fills b with random bytes.
func fill(rng *rand.Rand, b []byte) {
	var seed [32]byte
	for i := range 4 {
		binary.LittleEndian.PutUint64(seed[8*i:], rng.Uint64())
	}
	rand.NewChaCha8(seed).Read(b)
}

// sendPayload writes a payload of random bytes: its length, the bytes, and
// their hash.
func (s *soak) sendPayload(w io.Writer, rng *rand.Rand, size int) error {
	buf := make([]byte, min(size, chunk))
	if err := binary.Write(w, binary.BigEndian, uint64(size)); err != nil {
		return err
	}
	hash := sha256.New()
	for size > 0 {
		b := buf[:min(size, 1+randomSize(rng, len(buf)-1))]
		fill(rng, b)
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

// packetHeader is the length of a serial number and of the hash after it.
const packetHeader = 8 + sha256.Size

// makePacket returns a packet with a serial number, size random bytes, and
// their hash.
func makePacket(rng *rand.Rand, serial uint64, size int) []byte {
	b := make([]byte, packetHeader+size)
	binary.BigEndian.PutUint64(b, serial)
	fill(rng, b[packetHeader:])
	sum := sha256.Sum256(b[packetHeader:])
	copy(b[8:], sum[:])
	return b
}

// checkPacket returns the serial number of a packet.
func checkPacket(b []byte) (uint64, error) {
	if len(b) < packetHeader {
		return 0, fmt.Errorf("packet of %d bytes: %w", len(b), errCorrupt)
	}
	if sum := sha256.Sum256(b[packetHeader:]); !bytes.Equal(b[8:packetHeader], sum[:]) {
		return 0, fmt.Errorf("packet of %d bytes: %w", len(b), errCorrupt)
	}
	return binary.BigEndian.Uint64(b), nil
}
