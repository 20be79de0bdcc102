package testenv

import (
	"io"
	"testing"
)

// StreamChunk is the number of bytes in an operation of Stream.
const StreamChunk = 1 << 20

// Stream is the loop of a benchmark of one stream, from one connection to another. The
// caller closes them.
func Stream(b *testing.B, from io.Writer, to io.Reader) {
	b.Helper()
	go func() {
		data := make([]byte, StreamChunk)
		for {
			if _, err := from.Write(data); err != nil {
				return
			}
		}
	}()
	data := make([]byte, StreamChunk)
	b.SetBytes(StreamChunk)
	for b.Loop() {
		if _, err := io.ReadFull(to, data); err != nil {
			b.Fatal(err)
		}
	}
}
