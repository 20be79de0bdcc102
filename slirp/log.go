package slirp

import (
	"io"
	"os"

	"gvisor.dev/gvisor/pkg/log"
)

// gVisor tells the program's standard error what it thinks of packets of guests, by
// one logger for the whole process. It is silenced where it writes to, for loggers
// that were made of it before have it too. A program that wants to read it, or has
// said already where it goes, has it so: log.SetTarget.
func init() {
	if e, ok := log.Log().Emitter.(log.GoogleEmitter); ok && e.Next == os.Stderr {
		e.Next = io.Discard
	}
}
