package vdeplug

import (
	"io"

	"github.com/vdestack/vdestack/internal/stream"
)

// NewStream returns a plug that speaks the VDE stream protocol, as vde_plug does over pipes,
// terminals and network connections: each frame after its length, in two bytes, most
// significant first.
//
// The plug owns rw. The Close of rw must end its Read and Write, and is called while they
// run. When the stream ends, Recv returns an error that wraps [io.EOF]. An impossible length
// is the end too, as the stream has no mark from which to go on.
func NewStream(rw io.ReadWriteCloser) Conn { return newPlug("stream", stream.New(rw)) }
