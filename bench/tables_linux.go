package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// A contestant is a kind of stacks, and the worker that makes them.
type contestant struct {
	name string
	// prepare builds the worker in dir, or finds out what it needs, and returns
	// its command. The error says what is missing, and how to get it.
	prepare func(ctx context.Context, dir string) (argv []string, err error)
	// locator translates a locator of vdeplug; nil keeps it.
	locator func(string) string
}

// contestants are all kinds of stacks, in the order of their turns.
var contestants = []contestant{
	{name: "vdestack", prepare: self("vdestack")},
	{name: "libvdestack", prepare: buildC, locator: streamCommand},
	{name: "kernel", prepare: self("kernel")},
}

// self is a worker of this program.
func self(name string) func(context.Context, string) ([]string, error) {
	return func(context.Context, string) ([]string, error) {
		exe, err := os.Executable()
		return []string{exe, "worker", name}, err
	}
}

//go:embed libvdestack/worker.c
var workerC []byte

// buildC compiles the worker for libvdestack.
func buildC(ctx context.Context, dir string) ([]string, error) {
	const path = "/dev/net/tun"
	tun, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err // without it the library waits for ever
	}
	tun.Close()
	gcc, err := program("gcc", "gcc")
	if err != nil {
		return nil, err
	}
	src, exe := filepath.Join(dir, "worker.c"), filepath.Join(dir, "libvdestack-worker")
	if err := os.WriteFile(src, workerC, 0o600); err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, gcc, "-O2", "-pthread", "-o", exe, src, "-lvdestack").CombinedOutput()
	if err != nil {
		line, _, _ := strings.Cut(string(out), "\n")
		return nil, fmt.Errorf("gcc: %w: %s (apt-get install libvdestack-dev)", err, line)
	}
	return []string{exe}, nil
}

// streamCommand writes the network of a command as libvdestack does.
func streamCommand(locator string) string {
	if command, ok := strings.CutPrefix(locator, "cmd://"); ok {
		return "=" + command
	}
	return locator
}

// A network is one that stacks are connected to.
type network struct {
	name string
	// ends returns the locators of both stacks; path is a file that does not
	// exist. Nil: loopback.
	ends func(path string) (a, b string)
	// start starts what the network needs at path, if anything.
	start func(ctx context.Context, path string) (stop func(), err error)
}

var networks = []network{
	{name: "loopback"},
	{name: "veth"},
	{name: "mem", ends: both("mem://%s")},
	{name: "ptp", ends: both("ptp://%s")},
	{name: "vde", ends: both("vde://%s"), start: startSwitch},
	{name: "vxvde", ends: func(string) (a, b string) { return "vxvde://", "vxvde://" }},
	{name: "cmd", ends: both("cmd://vde_plug vde://%s"), start: startPlugs},
}

// both gives both stacks the same locator.
func both(format string) func(path string) (a, b string) {
	return func(path string) (a, b string) {
		a = fmt.Sprintf(format, path)
		return a, a
	}
}

// startSwitch starts a vde_switch.
func startSwitch(ctx context.Context, path string) (stop func(), err error) {
	vdeSwitch, err := program("vde_switch", "vde-switch")
	if err != nil {
		return nil, err
	}
	p, err := start(vdeSwitch, "-s", path)
	if err != nil {
		return nil, err
	}
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	late := time.After(stopWait)
	for {
		if _, err := os.Stat(filepath.Join(path, "ctl")); err == nil {
			return p.stop, nil
		}
		select {
		case <-poll.C:
			continue
		case <-p.ended:
			err = errors.New("vde_switch has ended")
		case <-late:
			err = errors.New("vde_switch does not start")
		case <-ctx.Done():
			err = ctx.Err()
		}
		p.stop()
		return nil, fmt.Errorf("%w %s", err, p.stderr.text)
	}
}

// startPlugs starts a vde_switch for the vde_plugs that stacks start.
func startPlugs(ctx context.Context, path string) (stop func(), err error) {
	if _, err := program("vde_plug", "vdeplug"); err != nil {
		return nil, err
	}
	return startSwitch(ctx, path)
}

// program returns the path of a program; pkg is the Debian package that has it.
func program(name, pkg string) (string, error) {
	for _, dir := range []string{"", "/usr/sbin/", "/sbin/"} {
		if path, err := exec.LookPath(dir + name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("program %s is missing (apt-get install %s)", name, pkg)
}

// A measurement is what a worker is asked for in its turn.
type measurement struct {
	name   string
	suffix string // is added to the path of the network
	cells  []cell
	run    func(t *turn) error
}

// measurements are all of a round, in order.
var measurements = []measurement{
	{"traffic", "", []cell{
		{"kernel", "veth"},
		{"vdestack", "mem"},
		{"vdestack", "ptp"},
		{"libvdestack", "ptp"},
		{"vdestack", "vde"},
		{"libvdestack", "vde"},
		{"vdestack", "vxvde"},
		{"libvdestack", "vxvde"},
		{"vdestack", "cmd"},
		{"libvdestack", "cmd"},
		{"vdestack", "loopback"},
		{"libvdestack", "loopback"},
	}, (*turn).traffic},
	{"open", "%d", []cell{
		{"vdestack", "loopback"},
		{"libvdestack", "loopback"},
		{"vdestack", "mem"},
		{"vdestack", "ptp"},
		{"libvdestack", "ptp"},
	}, (*turn).open},
	{"sockets", "", []cell{
		{"kernel", "loopback"},
		{"vdestack", "loopback"},
		{"libvdestack", "loopback"},
	}, (*turn).sockets},
}
