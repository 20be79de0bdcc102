package main

import "golang.org/x/sys/unix"

// pin runs everything that is started from now on on one processor, the last one that
// the program may use. Children inherit it from the main thread, which starts them.
func pin() (unpin func(), err error) {
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return nil, err
	}
	for i, left := 0, before.Count(); left > 0; i++ {
		if before.IsSet(i) {
			if left--; left == 0 {
				one.Set(i)
			}
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return nil, err
	}
	return func() { unix.SchedSetaffinity(0, &before) }, nil
}
