package vdeplug

import (
	"io"

	"github.com/vdestack/vdestack/internal/stream"
)

// NewStream returns a plug that speaks the VDE stream protocol, in which
// vde_plug and its kind talk over pipes, terminals and network connections:
// before each frame its length, two bytes, most significant first.
//
// The plug owns rw. Its Close must end its Read and Write, and may be called
// while they run. When the stream ends, Recv returns an error that wraps
// [io.EOF]. A length that cannot be one is the end too: there is no mark from
// which to go on.
func NewStream(rw io.ReadWriteCloser) Conn { return newPlug("stream", stream.New(rw)) }
