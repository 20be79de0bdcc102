package autoconf

import (
	"context"
	"errors"
	"iter"
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// sleeps returns for how long the machine was asleep, each time when it wakes up, until ctx
// ends. Timers and the clock of package time stand still meanwhile. While it is awake,
// nothing wakes the program: the kernel ends the wait for a timer of the time of day when
// that jumps, as it does after sleep.
func sleeps(ctx context.Context) iter.Seq[time.Duration] {
	return func(yield func(time.Duration) bool) {
		fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
		if err != nil {
			return // without, leases are renewed by the clock that stood still
		}
		f := os.NewFile(uintptr(fd), "timerfd")
		defer f.Close()
		defer context.AfterFunc(ctx, func() { f.Close() })()
		far := &unix.ItimerSpec{Value: unix.NsecToTimespec(math.MaxInt64)} // in 2262
		raw, err := f.SyscallConn()
		if err != nil {
			return
		}
		before := asleep()
		for {
			var serr error
			if err := raw.Control(func(fd uintptr) {
				serr = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, far, nil)
			}); err != nil || serr != nil {
				return
			}
			// What happened before the timer was set is seen here.
			now := asleep()
			if slept := now - before; slept >= time.Second {
				before = now
				if !yield(slept) {
					return
				}
			}
			err := raw.Read(func(fd uintptr) bool {
				var b [8]byte
				_, serr = unix.Read(int(fd), b[:])
				return serr != unix.EAGAIN
			})
			if err != nil || serr != nil && serr != unix.ECANCELED {
				return
			}
		}
	}
}

// asleep returns for how long the machine was asleep since it has started. If the process is
// stopped between two clocks, it looks again.
func asleep() (d time.Duration) {
	for range 10 {
		var before, boot, after unix.Timespec
		if err := errors.Join(unix.ClockGettime(unix.CLOCK_MONOTONIC, &before), unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot),
			unix.ClockGettime(unix.CLOCK_MONOTONIC, &after)); err != nil {
			return 0
		}
		d = time.Duration(boot.Nano() - before.Nano())
		if after.Nano()-before.Nano() < int64(100*time.Millisecond) {
			break
		}
	}
	return d
}
