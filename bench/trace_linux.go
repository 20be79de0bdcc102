package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// spare is what a process may keep for itself: the namespace of its helper task,
	// and what it has ready for further stacks.
	spare = 16
	// goneWait is how long closed stacks may take to vanish.
	goneWait = time.Minute
	// goneLook is the pause between two looks.
	goneLook = 10 * time.Millisecond

	// namespaceLimit is the limit of this user namespace, which is the worker's own.
	// At first it is no less than manyNamespaces.
	namespaceLimit = "/proc/sys/user/max_net_namespaces"
	manyNamespaces = 1 << 20
)

// trace records the descriptors of the process. The function that it returns waits until
// there are no more than that, except for spare ones, and until the kernel has freed all
// network namespaces except for spare ones.
func trace() (gone func() error, err error) {
	if whole, err := initialUserNamespace(); err != nil || whole {
		return nil, errors.Join(err, errors.New("the limit of namespaces here is the machine's"))
	}
	before, err := descriptors()
	if err != nil {
		return nil, err
	}
	if _, err := fewNamespaces(); err != nil {
		return nil, err
	}
	return func() error {
		for end := time.Now().Add(goneWait); ; time.Sleep(goneLook) {
			few, err := fewNamespaces()
			if err != nil {
				return err
			}
			now, err := descriptors()
			if err != nil || few && now <= before+spare {
				return err
			}
			if time.Now().After(end) {
				return fmt.Errorf("left after %v: %d descriptors, which were %d, and more than %d namespaces: %v", goneWait, now, before, spare, !few)
			}
		}
	}, nil
}

// initialUserNamespace reports whether this namespace has all users of the machine.
func initialUserNamespace() (bool, error) {
	text, err := os.ReadFile("/proc/self/uid_map")
	f := strings.Fields(string(text))
	return len(f) == 3 && f[2] == "4294967295", err
}

func descriptors() (int, error) {
	files, err := os.ReadDir("/proc/self/fd")
	return len(files), err
}

// fewNamespaces reports whether this user namespace and those below it have no more than
// spare network namespaces. The kernel counts them until the last trace of each is gone.
// It does not show the number, but refuses a namespace above the limit.
func fewNamespaces() (bool, error) {
	if err := setLimit(spare + 1); err != nil {
		return false, err
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends
		result <- unix.Unshare(unix.CLONE_NEWNET)
	}()
	err := <-result
	if lerr := setLimit(manyNamespaces); lerr != nil {
		return false, lerr
	}
	if errors.Is(err, unix.ENOSPC) {
		return false, nil
	}
	return err == nil, os.NewSyscallError("unshare", err)
}

func setLimit(n int) error {
	return os.WriteFile(namespaceLimit, []byte(strconv.Itoa(n)), 0)
}
