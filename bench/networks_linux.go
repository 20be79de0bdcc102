package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vdestack/vdestack/internal/sched"
	"github.com/vdestack/vdestack/internal/testenv/private"
	"github.com/vdestack/vdestack/vdeplug"
)

// A network is what stacks are connected to.
type network struct {
	name string
	// ends returns the locators of both stacks; path is a file that does not
	// exist. Nil: loopback.
	ends func(path string) (a, b string)
	// start starts what the network needs at path; nil: nothing.
	start func(ctx context.Context, path string) (stop func(), err error)
}

var networks = []network{
	{name: loop},
	// The workers of the kernel, of gVisor and of WireGuard know their own networks by name.
	{name: veth, ends: both(veth)},
	{name: plain, ends: both(plain)},
	{name: apart, ends: both("%s")},
	{name: "pipe", ends: both("pipe")},
	{name: "gso", ends: both("gso")},
	{name: "unix", ends: both("unix")},
	{name: wg, ends: both(wg)},

	// Not networks: a client of the host reaches a server in a stack.
	{name: port, ends: both(port)},
	{name: kept, ends: both(kept)},

	{name: "lan", ends: func(path string) (a, b string) { // a path would be a network between processes
		a = "lan://" + strings.ReplaceAll(path, "/", "-")
		return a, a
	}},
	{name: paths, ends: both("lan://%s")},
	{name: "mem", ends: both("mem://%s")},
	{name: "ptp", ends: both("ptp://%s")},
	{name: "vde", ends: both("vde://%s"), start: startSwitch},
	{name: "switch", ends: both("vde://%s"), start: startOwnSwitch},
	{name: "vxvde", ends: both("vxvde://")},
	{name: "udp", ends: func(string) (a, b string) {
		// The namespace is private: its ports are free.
		return "udp://20001->127.0.0.1:20002", "udp://20002->127.0.0.1:20001"
	}},
	{name: "cmd", ends: both("cmd://vde_plug vde://%s"), start: startPlugs},
}

// networkOf returns the network of a name.
func networkOf(name string) network {
	for _, n := range networks {
		if n.name == name {
			return n
		}
	}
	panic("no network is called " + name)
}

// both gives both stacks the same locator, in which %s is the path.
func both(format string) func(path string) (a, b string) {
	return func(path string) (a, b string) {
		a = strings.Replace(format, "%s", path, 1)
		return a, a
	}
}

// startSwitch starts a vde_switch.
func startSwitch(ctx context.Context, path string) (stop func(), err error) {
	vdeSwitch, err := private.Find("vde_switch", "vde-switch")
	if err != nil {
		return nil, err
	}
	return startServer(ctx, path, vdeSwitch, "-s", path)
}

// startOwnSwitch starts a process of this program with the switch of vdeplug.
func startOwnSwitch(ctx context.Context, path string) (stop func(), err error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return startServer(ctx, path, exe, switchArg, path)
}

// switchArg makes this program a switch.
const switchArg = "switch"

// serveSwitch runs a switch until the input ends, with the scheduling policy of
// "vdens plug".
func serveSwitch(path string) error {
	sched.Batch()
	c, err := vdeplug.Open("switch://"+path, nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, c.Close())
}

// startServer starts a program that makes a switch at path, and waits for the switch.
func startServer(ctx context.Context, path string, argv ...string) (stop func(), err error) {
	p, err := start(false, argv...)
	if err != nil {
		return nil, err
	}
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	late := time.After(stopWait)
	for {
		// Its socket exists a moment before it listens.
		if c, err := net.Dial("unix", filepath.Join(path, "ctl")); err == nil {
			c.Close()
			return p.stop, nil
		}
		select {
		case <-poll.C:
			continue
		case <-p.ended:
			err = errors.New("the switch has ended")
		case <-late:
			err = errors.New("the switch does not start")
		case <-ctx.Done():
			err = ctx.Err()
		}
		p.stop()
		return nil, fmt.Errorf("%w %s", err, p.stderr.text)
	}
}

// startPlugs starts a vde_switch for the vde_plugs that stacks start.
func startPlugs(ctx context.Context, path string) (stop func(), err error) {
	if _, err := private.Find("vde_plug", "vdeplug"); err != nil {
		return nil, err
	}
	return startSwitch(ctx, path)
}
