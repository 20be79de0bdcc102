package transform

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"strings"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/regular"
	"github.com/vdestack/vdestack/internal/virtio"
)

// Special values for the type of encrypted frames in the network.
const (
	AGNOCopy = 0 // the type of the frame inside
	AGNORand = 1 // a random one for each frame

	MinEtherType = 0x600 // less is a length
	MaxEtherType = 0xfffe
)

// An AGNOKey is a key of AES-128.
type AGNOKey [aes.BlockSize]byte

// maxKeyFile is more than any key file needs.
const maxKeyFile = 64 << 10

// ReadAGNOKey reads a key from the hexadecimal digits of a file. Missing digits are 0, and
// surplus ones are ignored.
func ReadAGNOKey(path string) (key AGNOKey, err error) {
	f, err := regular.Open(path)
	if err != nil {
		return key, fmt.Errorf("key file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err == nil {
		key, err = parseAGNOKey(text)
	}
	if err != nil {
		err = fmt.Errorf("key file %s: %w", path, err)
	}
	return key, err
}

func parseAGNOKey(text []byte) (key AGNOKey, err error) {
	digits := bytes.Repeat([]byte{'0'}, hex.EncodedLen(len(key)))
	n := 0
	for _, c := range text {
		if n < len(digits) && strings.IndexByte("0123456789abcdefABCDEF", c) >= 0 {
			digits[n] = c
			n++
		}
	}
	if n < 2 {
		return key, errors.New("it has no key (hexadecimal digits, 32 are a full key)")
	}
	_, err = hex.Decode(key[:], digits)
	return key, err
}

// The block before the encrypted payload has the type of the frame, the number of padding
// bytes, a zero byte, a magic number, the time, and random bytes.
const (
	agnoMagic = "agno"

	agnoPadAt   = 2
	agnoMagicAt = 4
	agnoTimeAt  = 8
	agnoRandAt  = 12
)

// An agno encrypts frames.
type agno struct {
	wireType uint16 // or AGNOCopy or AGNORand
	block    cipher.Block
	now      func() time.Time
}

// NewAGNO returns the transform that encrypts frames. wireType is their type in the network,
// or AGNOCopy or AGNORand.
func NewAGNO(key AGNOKey, wireType uint16) Transform {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the key has the right length
	}
	return &agno{wireType: wireType, block: block, now: time.Now}
}

// Encap implements [Transform].
func (a *agno) Encap(b *Batch, p *packet.Packet) (dropped int) {
	segments, err := b.Split(p.Offload, p.Data, 0)
	if err != nil {
		return 1
	}
	for _, s := range segments {
		if n := len(s.Head) + len(s.Data); n < ether.HeaderLen || n > ether.MaxFrame {
			dropped++
			continue
		}
		frame := b.alloc(len(s.Head) + len(s.Data) + 2*aes.BlockSize)
		n := copy(frame[aes.BlockSize:], s.Head)
		n += copy(frame[aes.BlockSize+n:], s.Data)
		b.add(packet.Packet{Data: a.seal(frame, n)})
	}
	return dropped
}

// seal encrypts a frame of n bytes, which has room for a block before and after it in b.
func (a *agno) seal(b []byte, n int) []byte {
	const head = ether.HeaderLen + aes.BlockSize
	ethType := binary.BigEndian.Uint16(b[aes.BlockSize+ether.AddrsLen:])
	copy(b, b[aes.BlockSize:][:ether.AddrsLen])
	payload := b[head : aes.BlockSize+n]
	pad := -len(payload) & (aes.BlockSize - 1)
	payload = b[head : head+len(payload)+pad]
	clear(payload[len(payload)-pad:])

	block := b[ether.HeaderLen:head]
	binary.BigEndian.PutUint16(block, ethType)
	block[agnoPadAt], block[agnoPadAt+1] = byte(pad), 0
	copy(block[agnoMagicAt:], agnoMagic)
	binary.BigEndian.PutUint32(block[agnoTimeAt:], uint32(a.now().Unix()))
	rand.Read(block[agnoRandAt:]) // never fails
	binary.BigEndian.PutUint16(b[ether.AddrsLen:], a.outerType(ethType))
	encryptCBC(a.block, block, payload)
	a.block.Encrypt(block, block)
	return b[:head+len(payload)]
}

// outerType returns the type in the network for a frame with the type inner.
func (a *agno) outerType(inner uint16) uint16 {
	switch a.wireType {
	case AGNOCopy:
		return inner
	case AGNORand:
		return uint16(MinEtherType + mathrand.IntN(MaxEtherType-MinEtherType+1))
	}
	return a.wireType
}

// How many seconds the clock of the sender may be ahead, and a frame may be late.
const (
	agnoEarly = 1
	agnoLate  = 2
)

// Decap implements [Transform]. It ignores frames with another key, which belong to other
// networks.
func (a *agno) Decap(p *packet.Packet) Action {
	const head = ether.HeaderLen + aes.BlockSize
	if p.Offload != (virtio.Header{}) || len(p.Data) < head {
		return Ignore // agno sends frames only
	}
	block := p.Data[ether.HeaderLen:head]
	a.block.Decrypt(block, block)
	if string(block[agnoMagicAt:agnoTimeAt]) != agnoMagic || block[agnoPadAt+1] != 0 {
		return Ignore
	}
	age := int32(uint32(a.now().Unix()) - binary.BigEndian.Uint32(block[agnoTimeAt:]))
	if age < -agnoEarly || age > agnoLate {
		return Drop
	}
	payload := p.Data[head:]
	payload = payload[:len(payload)&^(aes.BlockSize-1)] // the rest is not encrypted
	pad := int(block[agnoPadAt])
	if pad >= aes.BlockSize || pad > len(payload) {
		return Drop
	}
	decryptCBC(a.block, block, payload)
	copy(p.Data[aes.BlockSize+ether.AddrsLen:], block[:2]) // the end of the block
	copy(p.Data[aes.BlockSize:], p.Data[:ether.AddrsLen])
	p.Data = p.Data[aes.BlockSize : head+len(payload)-pad]
	p.Room += aes.BlockSize
	return Pass
}

// encryptCBC and decryptCBC work in place. crypto/cipher would allocate for each frame.
func encryptCBC(c cipher.Block, iv, data []byte) {
	for ; len(data) > 0; iv, data = data[:aes.BlockSize], data[aes.BlockSize:] {
		subtle.XORBytes(data, data[:aes.BlockSize], iv)
		c.Encrypt(data, data)
	}
}

func decryptCBC(c cipher.Block, iv, data []byte) {
	for i := len(data) - aes.BlockSize; i >= 0; i -= aes.BlockSize {
		before := iv
		if i > 0 {
			before = data[i-aes.BlockSize : i]
		}
		block := data[i : i+aes.BlockSize]
		c.Decrypt(block, block)
		subtle.XORBytes(block, block, before)
	}
}
