package conformance

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
)

// A payload is a stream of bytes that is determined by its seed.
type payload struct {
	seed uint64
	size int64
}

func (p payload) reader() io.Reader {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], p.seed)
	return io.LimitReader(rand.NewChaCha8(key), p.size)
}

func (p payload) bytes() []byte {
	b := make([]byte, p.size)
	io.ReadFull(p.reader(), b) // which has that many
	return b
}

func (p payload) sum() string {
	h := sha256.New()
	io.Copy(h, p.reader())
	return fmt.Sprintf("%d bytes %x", p.size, h.Sum(nil))
}

// sum reads r to its end and returns what payload.sum returns for the same
// bytes.
func sum(r io.Reader) (string, error) {
	h := sha256.New()
	n, err := io.Copy(h, r)
	return fmt.Sprintf("%d bytes %x", n, h.Sum(nil)), err
}

// check reads r to its end and returns an error if that is not the payload.
func (p payload) check(r io.Reader) error {
	got, err := sum(r)
	if err != nil {
		return fmt.Errorf("after %s: %w", got, err)
	}
	if want := p.sum(); got != want {
		return fmt.Errorf("got %s, want %s", got, want)
	}
	return nil
}

// checkNext reads as many bytes as the payload has, and returns an error if they are not
// the payload.
func (p payload) checkNext(r io.Reader) error { return p.check(io.LimitReader(r, p.size)) }

// send writes the payload, and ends the direction.
func (p payload) send(c interface {
	io.Writer
	CloseWrite() error
}) error {
	_, err := io.Copy(c, p.reader())
	return errors.Join(err, c.CloseWrite())
}
