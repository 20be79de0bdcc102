//go:build !linux || !(amd64 || arm64)

package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack/rtnl"
	"github.com/vdestack/vdestack/vdeplug"
)

// Stack is not available on this system: New returns an error.
type Stack struct{}

var errUnsupported = fmt.Errorf("stacks need Linux on amd64 or arm64, this is %s on %s: %w", runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)

// New returns an error that wraps [errors.ErrUnsupported].
func New(context.Context, Config) (*Stack, error) { return nil, errUnsupported }

// Name returns "".
func (s *Stack) Name() string { return "" }

// Close does nothing.
func (s *Stack) Close() error { return nil }

// String returns "".
func (s *Stack) String() string { return "" }

// Socket returns an error.
func (s *Stack) Socket(domain, typ, proto int) (*os.File, error) { return nil, errUnsupported }

// Control returns an error.
func (s *Stack) Control(network, address string, c syscall.RawConn) error { return errUnsupported }

// ControlContext returns an error.
func (s *Stack) ControlContext(ctx context.Context, network, address string, c syscall.RawConn) error {
	return errUnsupported
}

// RTNL returns an error.
func (s *Stack) RTNL() (*rtnl.Conn, error) { return nil, errUnsupported }

// Netlink returns an error.
func (s *Stack) Netlink(family int) (*netlink.Conn, error) { return nil, errUnsupported }

// Sysctl returns an error.
func (s *Stack) Sysctl(name, value string) error { return errUnsupported }

// ReadSysctl returns an error.
func (s *Stack) ReadSysctl(name string) (string, error) { return "", errUnsupported }

// AddInterface returns an error.
func (s *Stack) AddInterface(context.Context, Interface) error { return errUnsupported }

// RemoveInterface returns an error.
func (s *Stack) RemoveInterface(name string) error { return errUnsupported }

// SetDNS returns an error.
func (s *Stack) SetDNS(DNS) error { return errUnsupported }

// DNS returns the zero DNS.
func (s *Stack) DNS() DNS { return DNS{} }

// NetNS returns an error.
func (s *Stack) NetNS() (*os.File, error) { return nil, errUnsupported }

// TUN returns an error.
func (s *Stack) TUN(TUNConfig) (*TUN, error) { return nil, errUnsupported }

// A TUN is not available on this system.
type TUN struct{}

// Read returns an error.
func (t *TUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) { return 0, errUnsupported }

// Write returns an error.
func (t *TUN) Write(bufs [][]byte, offset int) (int, error) { return 0, errUnsupported }

// BatchSize returns 128.
func (t *TUN) BatchSize() int { return tunBatchSize }

// Name returns an error.
func (t *TUN) Name() (string, error) { return "", errUnsupported }

// MTU returns an error.
func (t *TUN) MTU() (int, error) { return 0, errUnsupported }

// File returns an error.
func (t *TUN) File() (*os.File, error) { return nil, errUnsupported }

// Close returns an error.
func (t *TUN) Close() error { return errUnsupported }

// Emulator returns an error.
func (s *Stack) Emulator(ifname string) (*vdeplug.Emulator, error) { return nil, errUnsupported }

// Stats returns nothing.
func (s *Stack) Stats() Stats { return Stats{} }

// SocketStats returns an error.
func (s *Stack) SocketStats() (SocketStats, error) { return SocketStats{}, errUnsupported }

func (s *Stack) orNone() *Stack { return s }

func (s *Stack) start(context.Context, *Cmd, []*os.File) (*process, error) {
	return nil, errUnsupported
}

type process struct{ pid int }

func (p *process) kill()                   {}
func (p *process) wait(func() error) error { return errUnsupported }
