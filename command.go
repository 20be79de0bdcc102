package vdestack

import (
	"context"
	"fmt"
	"os"

	"github.com/vdestack/vdestack/internal/argv"
	"github.com/vdestack/vdestack/stack"
)

// A Cmd is a command to be run in a stack, with the fields and methods of
// [os/exec.Cmd], and KeepGroup, Binds, Names, SysAdmin and Hostname: package stack documents
// them, and what a command sees and may.
type Cmd = stack.Cmd

// A Bind makes a file, From, appear in the place of another, To: see Cmd.Binds.
type Bind = stack.Bind

// Command returns a command to run in the stack; a name without a slash is looked up in
// PATH. Start, Run or Output starts it. It is killed, with its process group, if ctx
// ends first.
func (s *Stack) Command(ctx context.Context, name string, arg ...string) *Cmd {
	return s.core().Command(ctx, name, arg...)
}

// Run runs commands in the stack, one after the other, with the program's standard
// input, output and error, and stops at the first that does not succeed. They are
// separated by ";" and quoted with '…', "…" and backslashes; no shell is involved. It
// replaces vde_stackcmd. The error of a command that ran is an [os/exec.ExitError].
func (s *Stack) Run(ctx context.Context, commands string) error {
	list, err := argv.Split(commands, nil)
	if err != nil {
		return err
	}
	for _, args := range list {
		cmd := s.Command(ctx, args[0], args[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("command %q: %w", args, err)
		}
	}
	return nil
}
