package stack_test

import (
	"context"
	"net"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/stack"
)

type (
	Config         = stack.Config
	Interface      = stack.Interface
	InterfaceStats = stack.InterfaceStats
	DNS            = stack.DNS
	Bind           = stack.Bind
)

// A Stack is a stack with the calls of package net that the tests use.
type Stack struct{ *stack.Stack }

// New makes a stack.
func New(ctx context.Context, cfg Config) (*Stack, error) {
	s, err := stack.New(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &Stack{s}, nil
}

// on returns the configuration of a stack with an interface on the network or, without
// one, with loopback only.
func on(vnl string, prefixes ...string) (cfg Config) {
	if vnl != "" {
		cfg.Interfaces = []Interface{{VNL: vnl, Addrs: testenv.Prefixes(prefixes...)}}
	}
	return cfg
}

// Open makes such a stack.
func Open(vnl string, prefixes ...string) (*Stack, error) {
	return New(context.Background(), on(vnl, prefixes...))
}

func (s *Stack) Dial(network, address string) (net.Conn, error) {
	return s.DialContext(context.Background(), network, address)
}

func (s *Stack) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Control: s.Control}
	return d.DialContext(ctx, network, address)
}

func (s *Stack) Listen(network, address string) (net.Listener, error) {
	lc := net.ListenConfig{Control: s.Control}
	return lc.Listen(context.Background(), network, address)
}

func (s *Stack) ListenPacket(network, address string) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: s.Control}
	return lc.ListenPacket(context.Background(), network, address)
}

// Run executes commands of the shell.
func (s *Stack) Run(ctx context.Context, commands string) error {
	return s.Command(ctx, "sh", "-ec", commands).Run()
}

// made returns a stack that ends with the test.
func made(t testing.TB, cfg Config) *Stack {
	t.Helper()
	return testenv.Opened(New(t.Context(), cfg))(t)
}

// open opens a stack for the length of the test.
func open(t testing.TB, vnl string, prefixes ...string) *Stack {
	t.Helper()
	return made(t, on(vnl, prefixes...))
}
