package main

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vdestack/vdestack/internal/testenv/private"
)

// A contestant is a kind of stacks, and the worker that makes them.
type contestant struct {
	name string
	// prepare builds the worker in dir and returns its command. The error says what
	// is missing, and how to get it.
	prepare func(ctx context.Context, dir string) (argv []string, err error)
	// locator translates a locator of vdeplug; nil keeps it.
	locator func(string) string
	// sender and receiver are the contestants of a mixed pair; each makes one half.
	sender, receiver string
}

// contestants are all kinds of stacks.
var contestants = []contestant{
	{name: ours, prepare: self(ours)},
	{name: rival, prepare: buildC, locator: streamCommand},
	{name: kernel, prepare: self(kernel)},
	{name: gvisor, prepare: buildModule("gvisor")},
	{name: oursTUN, prepare: buildModule("wireguard", "tun")},
	{name: netstack, prepare: buildModule("wireguard", "netstack")},
	{name: inC, prepare: buildObjects},
	{name: oursApart, sender: ours, receiver: ours},
	{name: kernelApart, sender: kernel, receiver: kernel},
	{name: oursToRival, sender: ours, receiver: rival},
	{name: rivalToOurs, sender: rival, receiver: ours},
}

// contestantOf returns the contestant of a name.
func contestantOf(name string) contestant {
	for _, c := range contestants {
		if c.name == name {
			return c
		}
	}
	panic("no contestant is called " + name)
}

// self is a worker of this program.
func self(name string) func(context.Context, string) ([]string, error) {
	return func(context.Context, string) ([]string, error) {
		exe, err := os.Executable()
		return []string{exe, "worker", name}, err
	}
}

//go:embed libvdestack objects
var sourcesC embed.FS

// buildC compiles the worker for libvdestack.
func buildC(ctx context.Context, dir string) ([]string, error) {
	const path = "/dev/net/tun"
	tun, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err // without it the library waits and never returns
	}
	tun.Close()
	argv, err := compile(ctx, dir, "libvdestack", "-pthread", "-lvdestack")
	if err != nil {
		err = fmt.Errorf("%w (apt-get install libvdestack-dev)", err)
	}
	return argv, err
}

// buildObjects compiles the loop that makes what the kernel needs for stacks.
func buildObjects(ctx context.Context, dir string) ([]string, error) {
	return compile(ctx, dir, "objects")
}

// compile compiles the C files of a directory.
func compile(ctx context.Context, dir, name string, flags ...string) ([]string, error) {
	gcc, err := private.Find("gcc", "gcc")
	if err != nil {
		return nil, err
	}
	sources, err := fs.Sub(sourcesC, name)
	if err != nil {
		return nil, err
	}
	src, exe := filepath.Join(dir, name), filepath.Join(dir, name+"-worker")
	if err := os.CopyFS(src, sources); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(src, "*.c"))
	if err != nil {
		return nil, err
	}
	args := append([]string{"-O2", "-o", exe}, files...)
	out, err := exec.CommandContext(ctx, gcc, append(args, flags...)...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("gcc: %w: %s", err, firstLine(out))
	}
	return []string{exe}, nil
}

// buildModule builds a worker that is a module of its own, in a directory of the one of this
// file, and gives it arguments. It is built again for other arguments: only if it has changed.
func buildModule(name string, args ...string) func(context.Context, string) ([]string, error) {
	return func(ctx context.Context, dir string) ([]string, error) {
		goTool, err := exec.LookPath("go")
		if err != nil {
			return nil, err
		}
		_, file, _, _ := runtime.Caller(0)
		src, exe := filepath.Join(filepath.Dir(file), name), filepath.Join(dir, name+"-worker")
		if _, err := os.Stat(src); err != nil {
			return nil, fmt.Errorf("its sources are not where this program was built: %w", err)
		}
		out, err := exec.CommandContext(ctx, goTool, "build", "-C", src, "-ldflags=-w", "-o", exe, ".").CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("go build: %w: %s", err, firstLine(out))
		}
		return append([]string{exe}, args...), nil
	}
}

func firstLine(out []byte) string {
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

// streamCommand writes the network of a command as libvdestack does.
func streamCommand(locator string) string {
	if command, ok := strings.CutPrefix(locator, "cmd://"); ok {
		return "=" + command
	}
	return locator
}
