package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vdestack/vdestack/internal/capture"
)

// setCapture reads the value of -w: the name of a file, and items after commas. A comma that no
// item follows is part of the name.
func (o *options) setCapture(text string) error {
	o.capture, o.limits, o.appendCapture = text, capture.Limits{}, false
	for {
		i := strings.LastIndexByte(o.capture, ',')
		if i < 0 {
			break
		}
		name, value, has := strings.Cut(o.capture[i+1:], "=")
		var err error
		switch {
		case name == "append" && !has:
			o.appendCapture = true
		case name == "count" && has:
			o.limits.Frames, err = positive(value, 1)
		case name == "size" && has:
			digits := strings.TrimRight(value, "kMG")
			unit, ok := map[string]int64{"": 1, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}[value[len(digits):]]
			if o.limits.Bytes, err = positive(digits, unit); !ok {
				err = errors.New("must be a number of bytes, or one with k, M or G")
			}
		case name == "time" && has:
			if o.limits.Time, err = time.ParseDuration(value); err != nil || o.limits.Time <= 0 {
				err = errors.New("must be a duration, such as 90s or 1h30m")
			}
		default:
			return o.checkCapture()
		}
		if err != nil {
			return fmt.Errorf("%s %q: %w", name, value, err)
		}
		o.capture = o.capture[:i]
	}
	return o.checkCapture()
}

func (o *options) checkCapture() error {
	switch {
	case o.capture == "":
		return errors.New("there is no name of a file")
	case o.capture == "-" && o.appendCapture:
		return errors.New("append is for files: -w FILE,append")
	}
	return nil
}

// positive reads a number of units that is not 0.
func positive(text string, unit int64) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange) && n > 0, err == nil && n > math.MaxInt64/max(unit, 1):
		return 0, errors.New("is too large")
	case err != nil, n < 1:
		return 0, errors.New("must be a number from 1")
	}
	return n * unit, nil
}

// openCapture opens the file that all interfaces are recorded to.
func (o *options) openCapture() (*capture.Limited, error) {
	w, size := os.Stdout, int64(0)
	if o.capture == "-" {
		// The reader may end before the command does.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	} else {
		flags := os.O_RDWR | os.O_CREATE | os.O_TRUNC
		if o.appendCapture {
			flags = os.O_RDWR | os.O_CREATE | os.O_APPEND
		}
		var err error
		if w, err = os.OpenFile(o.capture, flags, 0o600); err != nil {
			return nil, err // only the owner may read the file: it has all traffic
		}
		if info, err := w.Stat(); err == nil && o.appendCapture && info.Mode().IsRegular() {
			if size, err = capture.Check(w); err != nil {
				w.Close()
				return nil, fmt.Errorf("appending to %s: %w", o.capture, err)
			}
		}
	}
	limited := capture.Limit(w, size, o.limits)
	for i := range o.interfaces {
		o.interfaces[i].Capture = limited
	}
	return limited, nil
}
