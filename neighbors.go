package vdestack

import (
	"errors"
	"net"
	"syscall"
	"time"

	"github.com/vdestack/vdestack/internal/neigh"
)

// explainNeighbors explains an error of a connection that was begun at start, if the
// kernel's table of neighbours was full.
func explainNeighbors(err error, start time.Time) error {
	op, ok := err.(*net.OpError)
	if !ok || !op.Timeout() && !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ENOBUFS) {
		return err
	}
	if text := neigh.Full(start); text != "" {
		op.Err = &neighborsFull{op.Err, text}
	}
	return err
}

// neighborsFull is an error with its reason. A timeout is still one.
type neighborsFull struct {
	error
	text string
}

func (e *neighborsFull) Error() string { return e.error.Error() + " (" + e.text + ")" }

func (e *neighborsFull) Unwrap() error { return e.error }

func (e *neighborsFull) Timeout() bool {
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](e.error)
	return ok && t.Timeout()
}
