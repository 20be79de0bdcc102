package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A cpuTime is the processor time used by everything since boot, which includes the
// kernel's own threads and other programs, and by the descendants of this process.
type cpuTime struct {
	machine, processes time.Duration
}

func cpuTimes() (cpuTime, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return cpuTime{}, err
	}
	var t cpuTime
	if t.machine, err = parseCPU(string(stat)); err != nil {
		return cpuTime{}, err
	}
	names, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return cpuTime{}, err
	}
	all := make(map[int]usage)
	for _, name := range names {
		stat, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended meanwhile
		}
		if err != nil {
			return cpuTime{}, err
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil {
			return cpuTime{}, err
		}
		if all[pid], err = parseProcess(string(stat)); err != nil {
			return cpuTime{}, err
		}
	}
	t.processes = descendants(os.Getpid(), all)
	return t, nil
}
