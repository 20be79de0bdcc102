// Slirp_plug is slirp:// for programs that do not have it. It speaks the VDE stream
// format on standard input and output, for vdens, dpipe and other programs that start a
// command.
//
//	vdens -addr 10.0.2.15/24 -gw 10.0.2.2 -dns 10.0.2.3 cmd://slirp_plug curl example.org
//	dpipe slirp_plug slirp:///restricted = vdens plug vde://
//
// Its argument is the locator, slirp:// by default. It ends at the end of its input and
// on SIGTERM, SIGINT and SIGHUP, without output and with status 0.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/internal/stream"
	_ "github.com/vdestack/vdestack/slirp"
	"github.com/vdestack/vdestack/vdeplug"
)

func main() {
	vnl := "slirp://"
	switch len(os.Args) {
	case 1:
	case 2:
		vnl = os.Args[1]
	default:
		fmt.Fprintln(os.Stderr, "usage: slirp_plug [slirp://...]")
		os.Exit(2)
	}
	// If the reader of the stream is gone, Write returns the error.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer cancel()
	// Errors after a signal are its consequences.
	if err := run(ctx, vnl); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "slirp_plug:", err)
		os.Exit(1)
	}
}

// run carries frames until the stream ends or ctx is done. It waits for the network to
// close, so that its commands have ended.
func run(ctx context.Context, vnl string) error {
	network, err := vdeplug.OpenContext(ctx, vnl, nil)
	if err != nil {
		return err
	}
	defer network.Close()
	stdio := vdeplug.NewStream(stream.Stdio{})
	defer stdio.Close()
	select {
	case <-ctx.Done():
		return nil
	case end := <-packet.Join(packet.Of[vdeplug.Drops](network, vdeplug.MaxFrame), packet.Of[vdeplug.Drops](stdio, vdeplug.MaxFrame)):
		if errors.Is(end.Err, io.EOF) || errors.Is(end.Err, syscall.EPIPE) {
			return nil
		}
		return end.Err
	}
}
