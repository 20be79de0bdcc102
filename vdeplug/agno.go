package vdeplug

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vdestack/vdestack/internal/ether"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/virtio"
)

func init() {
	Register("agno", openAGNO)
	Describe("agno", Usage{
		Form:  "agno://[KEYFILE][[OPTIONS]]{NETWORK}",
		About: "another network, encrypted with a key that all have; by default in ~/.vde_agno_key",
		Options: []Option{
			{Name: "ethtype", Value: "TYPE", Default: "0xa6de", About: "type of the frames: a number, ipv4, ipv6, copy or rand"},
		},
	})
}

// openAGNO encrypts the frames of a network with a key that all its stations
// have:
//
//	agno://[keyfile][[ethtype=TYPE]]{network}
//
// The key file begins with "/" or "~"; by default it is ~/.vde_agno_key. Its
// hexadecimal digits, at least two, are the key, 32 of them at most; what is
// missing is zero. All other bytes of it mean nothing.
//
//   - ethtype is the type that frames have in the network: a6de by default; ipv4
//     or ipv6; copy, that of the frame inside; rand, another for each; or a number
//     from 0x600 to 0xfffe. Stations need not have the same.
//
// Addresses are sent in clear, the rest with AES-128. Nothing protects the payload
// from being changed, and what was recorded can be sent again for three seconds;
// so much may the clocks differ too. It keeps networks apart and curious readers
// out, and is no VPN.
//
// Frames become 16 to 31 bytes longer: an MTU of 1469 at the plug fits all into a
// network of Ethernet. The C program takes an upper-case A in a key file for
// another digit; write the key in lower case.
func openAGNO(ctx context.Context, l Locator, o *Options) (Conn, error) {
	cfg, vnl, err := parseAGNO(l)
	if err != nil {
		return nil, err
	}
	key, err := readAGNOKey(cfg.keyfile)
	if err != nil {
		return nil, err
	}
	inner, err := openInner(ctx, vnl, o)
	if err != nil {
		return nil, err
	}
	return newNested(l, inner, newAGNO(cfg, key)), nil
}

const (
	agnoType    = 0xa6de
	agnoKeyFile = "~/.vde_agno_key"
	minEthType  = 0x600 // less is a length
	maxEthType  = 0xfffe
	ethTypeIPv4 = 0x0800
	ethTypeIPv6 = 0x86dd

	// The types that are none.
	agnoCopy = 0
	agnoRand = 1
)

// agnoConfig is what an agno locator says.
type agnoConfig struct {
	keyfile string
	ethType uint16
}

func parseAGNO(l Locator) (cfg agnoConfig, inner string, err error) {
	t, err := l.Bracketed()
	if err != nil {
		return cfg, "", err
	}
	inner, t.HasInner = t.Inner, false
	cfg = agnoConfig{keyfile: t.Addr, ethType: agnoType}
	if cfg.keyfile == "" {
		cfg.keyfile = agnoKeyFile
	}
	if rest, ok := strings.CutPrefix(cfg.keyfile, "~"); ok && (rest == "" || rest[0] == '/') {
		home := os.Getenv("HOME")
		if home == "" {
			return cfg, "", fmt.Errorf("key file %q: HOME is not set", cfg.keyfile)
		}
		cfg.keyfile = filepath.Join(home, rest)
	} else if !filepath.IsAbs(cfg.keyfile) {
		return cfg, "", fmt.Errorf("key file %q: must begin with \"/\" or \"~/\"", cfg.keyfile)
	}
	err = t.Options(map[string]func(string, bool) error{
		"ethtype": func(v string, _ bool) error {
			switch v {
			case "copy":
				cfg.ethType = agnoCopy
			case "rand":
				cfg.ethType = agnoRand
			case "ipv4":
				cfg.ethType = ethTypeIPv4
			case "ipv6":
				cfg.ethType = ethTypeIPv6
			default:
				n, err := strconv.ParseUint(v, 0, 16)
				if err != nil || n < minEthType || n > maxEthType {
					return fmt.Errorf("must be copy, ipv4, ipv6, rand or a number from %#x to %#x", minEthType, maxEthType)
				}
				cfg.ethType = uint16(n)
			}
			return nil
		},
	})
	return cfg, inner, err
}

type agnoKey = [aes.BlockSize]byte

// maxKeyFile is more than a key file needs, whatever is around the key.
const maxKeyFile = 64 << 10

func readAGNOKey(path string) (key agnoKey, err error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return key, fmt.Errorf("key file %s: it is no file", path)
	}
	f, err := os.Open(path)
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

func parseAGNOKey(text []byte) (key agnoKey, err error) {
	n := 0
	for _, c := range text {
		digit := unhex(c)
		if digit < 0 || n == 2*len(key) {
			continue
		}
		key[n/2] |= byte(digit << (4 * (1 - n%2)))
		n++
	}
	if n < 2 {
		return key, errors.New("it has no key (hexadecimal digits, 32 are a full key)")
	}
	return key, nil
}

// The block before the encrypted payload: the type, how many bytes pad the
// payload, a zero, a mark, the time, and random bytes.
const (
	agnoMark = "agno"

	agnoPadAt  = 2
	agnoMarkAt = 4
	agnoTimeAt = 8
	agnoRandAt = 12
)

// An agno is a nesting that encrypts.
type agno struct {
	ethType uint16
	block   cipher.Block
	now     func() time.Time
}

func newAGNO(cfg agnoConfig, key agnoKey) *agno {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the key has the right length
	}
	return &agno{ethType: cfg.ethType, block: block, now: time.Now}
}

func (a *agno) outward(w *nestedWork, p *packet.Packet) (dropped int) {
	segments, err := w.Split(p.Offload, p.Data, 0)
	if err != nil {
		return 1
	}
	for _, s := range segments {
		if n := len(s.Head) + len(s.Data); n < ether.HeaderLen || n > ether.MaxFrame {
			dropped++
			continue
		}
		frame := w.take(len(s.Head) + len(s.Data) + 2*aes.BlockSize)
		n := copy(frame[aes.BlockSize:], s.Head)
		n += copy(frame[aes.BlockSize+n:], s.Data)
		w.pass(packet.Packet{Data: a.seal(frame, n)})
	}
	return dropped
}

// seal encrypts a frame of n bytes, before which there is room for one block, and
// behind it for another.
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
	copy(block[agnoMarkAt:], agnoMark)
	binary.BigEndian.PutUint32(block[agnoTimeAt:], uint32(a.now().Unix()))
	rand.Read(block[agnoRandAt:]) // does not fail
	binary.BigEndian.PutUint16(b[ether.AddrsLen:], a.wireType(ethType))
	encryptCBC(a.block, block, payload)
	a.block.Encrypt(block, block)
	return b[:head+len(payload)]
}

// wireType returns the type that a frame has in the network.
func (a *agno) wireType(inside uint16) uint16 {
	switch a.ethType {
	case agnoCopy:
		return inside
	case agnoRand:
		return uint16(minEthType + mathrand.IntN(maxEthType-minEthType+1))
	}
	return a.ethType
}

func (a *agno) inward(p *packet.Packet) verdict {
	if p.Offload != (virtio.Header{}) {
		return ignored // it was not made by an agno
	}
	return a.open(p)
}

// agnoEarly and agnoLate are how many seconds a frame may be ahead and behind.
const (
	agnoEarly = 1
	agnoLate  = 2
)

// open decrypts a frame. Those with another key are those of another network.
func (a *agno) open(p *packet.Packet) verdict {
	const head = ether.HeaderLen + aes.BlockSize
	if len(p.Data) < head {
		return ignored
	}
	block := p.Data[ether.HeaderLen:head]
	a.block.Decrypt(block, block)
	if string(block[agnoMarkAt:agnoTimeAt]) != agnoMark || block[agnoPadAt+1] != 0 {
		return ignored
	}
	age := int32(uint32(a.now().Unix()) - binary.BigEndian.Uint32(block[agnoTimeAt:]))
	if age < -agnoEarly || age > agnoLate {
		return dropped
	}
	payload := p.Data[head:]
	payload = payload[:len(payload)&^(aes.BlockSize-1)] // no more was encrypted
	pad := int(block[agnoPadAt])
	if pad >= aes.BlockSize || pad > len(payload) {
		return dropped
	}
	decryptCBC(a.block, block, payload)
	copy(p.Data[aes.BlockSize+ether.AddrsLen:], block[:2]) // the end of the block
	copy(p.Data[aes.BlockSize:], p.Data[:ether.AddrsLen])
	p.Data = p.Data[aes.BlockSize : head+len(payload)-pad]
	p.Room += aes.BlockSize
	return pass
}

// encryptCBC and decryptCBC do what crypto/cipher does, in place and without
// allocating: it would take a cipher.BlockMode for each frame.
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
