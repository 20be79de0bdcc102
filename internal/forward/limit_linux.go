package forward

import "golang.org/x/sys/unix"

// MaxClients returns how many clients a quarter of the process's descriptors suffices
// for, if each takes so many.
func MaxClients(descriptors int) int {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return 256
	}
	return int(min(max(l.Cur/4, 4), 1<<20)) / descriptors
}
