package slirp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// TFTP (RFC 1350, with the options of RFC 2347 to 2349), for reading only.
const (
	tftpPort = 69

	tftpBlock    = 512
	tftpMinBlock = 8
	tftpMaxBlock = 1428 // a frame of Ethernet
	// tftpMax bounds the open files: a new one replaces the one not used for longest.
	tftpMax  = 20
	tftpIdle = 30 * time.Second
)

// Kinds of messages.
const (
	tftpRead = 1 + iota
	tftpWrite
	tftpData
	tftpAck
	tftpError
	tftpOptionAck
)

// Kinds of errors.
const (
	tftpUndefined = iota
	tftpNotFound
	tftpAccess
	tftpFull
	tftpIllegal
)

// A tftp serves the files below a directory. It never waits: a guest that gets no answer
// asks again.
type tftp struct {
	root *os.Root // nil: no files

	mu    sync.Mutex // guards files
	files map[netip.AddrPort]*tftpFile
}

// A tftpFile is a file that a guest reads.
type tftpFile struct {
	*os.File
	block int
	sent  int64 // number of the block sent last; 0: the options
	last  bool  // it ends the file
	reply []byte
	used  time.Time
}

func (t *tftp) open(dir string) (err error) {
	t.files = make(map[netip.AddrPort]*tftpFile)
	t.root, err = os.OpenRoot(dir)
	return err
}

func (t *tftp) close() {
	if t.root == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.files {
		f.Close()
	}
	t.root.Close()
}

// answer returns the answer to a message, or nil.
func (t *tftp) answer(guest netip.AddrPort, msg []byte) []byte {
	if len(msg) < 4 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.files[guest]
	switch kind := binary.BigEndian.Uint16(msg); {
	case kind == tftpRead:
		t.end(guest)
		return t.read(guest, msg[2:])
	case kind == tftpWrite:
		return tftpFailure(tftpAccess, "this server is for reading")
	case f == nil:
	case kind == tftpAck:
		return t.acknowledge(guest, f, binary.BigEndian.Uint16(msg[2:]))
	case kind == tftpError:
		t.end(guest)
	}
	return nil
}

func (t *tftp) end(guest netip.AddrPort) {
	if f := t.files[guest]; f != nil {
		f.Close()
		delete(t.files, guest)
	}
}

// read opens a file, and returns the first answer.
func (t *tftp) read(guest netip.AddrPort, request []byte) []byte {
	fields := bytes.Split(request, []byte{0})
	if len(fields) < 3 { // name, mode, and what follows the last zero
		return tftpFailure(tftpIllegal, "no request")
	}
	if mode := strings.ToLower(string(fields[1])); mode != "octet" && mode != "netascii" {
		return tftpFailure(tftpIllegal, "unknown mode")
	}
	name := filepath.Clean(strings.TrimLeft(string(fields[0]), "/"))
	info, err := t.root.Stat(name)
	switch {
	case err != nil:
		return tftpFailure(tftpNotFound, "no such file")
	case !info.Mode().IsRegular():
		return tftpFailure(tftpAccess, "no file")
	}
	file, err := t.root.OpenFile(name, os.O_RDONLY|nonblock, 0) // it may be a pipe by now
	if err != nil {
		return tftpFailure(tftpAccess, "the file cannot be read")
	}
	f := &tftpFile{File: file, block: tftpBlock, used: time.Now()}
	t.makeRoom()
	t.files[guest] = f
	options := f.options(fields[2:len(fields)-1], info)
	if options == nil {
		return f.next()
	}
	f.reply = append([]byte{0, tftpOptionAck}, options...)
	return f.reply
}

// makeRoom closes the files of guests that are gone, and the one not used for longest if
// too many are open.
func (t *tftp) makeRoom() {
	var oldest netip.AddrPort
	for guest, f := range t.files {
		if time.Since(f.used) > tftpIdle {
			t.end(guest)
		} else if o := t.files[oldest]; o == nil || f.used.Before(o.used) {
			oldest = guest
		}
	}
	if len(t.files) >= tftpMax {
		t.end(oldest)
	}
}

// options applies the known options of a request, and returns them for the answer.
func (f *tftpFile) options(fields [][]byte, info fs.FileInfo) (taken []byte) {
	for ; len(fields) >= 2; fields = fields[2:] {
		value, err := strconv.Atoi(string(fields[1]))
		if err != nil {
			continue
		}
		name := strings.ToLower(string(fields[0]))
		switch {
		case name == "blksize" && value >= tftpMinBlock:
			f.block = min(value, tftpMaxBlock)
			value = f.block
		case name == "tsize":
			value = int(info.Size())
		default:
			continue
		}
		taken = fmt.Appendf(taken, "%s\x00%d\x00", name, value)
	}
	return taken
}

// acknowledge returns the next block, or the last one again.
func (t *tftp) acknowledge(guest netip.AddrPort, f *tftpFile, number uint16) []byte {
	f.used = time.Now()
	switch {
	case number == uint16(f.sent) && f.last:
		t.end(guest)
		return nil
	case number == uint16(f.sent):
		return f.next()
	case number == uint16(f.sent-1):
		return f.reply
	}
	return nil
}

// next returns the message with the next block.
func (f *tftpFile) next() []byte {
	f.sent++
	b := binary.BigEndian.AppendUint16([]byte{0, tftpData}, uint16(f.sent))
	b = append(b, make([]byte, f.block)...)
	n, err := f.ReadAt(b[4:], (f.sent-1)*int64(f.block))
	if err != nil && err != io.EOF {
		f.last = true
		return tftpFailure(tftpUndefined, "the file cannot be read")
	}
	f.last = n < f.block
	f.reply = b[:4+n]
	return f.reply
}

func tftpFailure(code byte, text string) []byte {
	return append(append([]byte{0, tftpError, 0, code}, text...), 0)
}
