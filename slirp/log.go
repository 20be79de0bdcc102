package slirp

import (
	"io"
	"os"

	"gvisor.dev/gvisor/pkg/log"
)

// gVisor logs about packets of guests to standard error, with one logger for the whole
// process. This replaces the writer of that logger, because loggers derived from it
// keep their emitter. A program that calls log.SetTarget, before or after, gets the log.
func init() {
	if e, ok := log.Log().Emitter.(log.GoogleEmitter); ok && e.Next == os.Stderr {
		e.Next = io.Discard
	}
}
