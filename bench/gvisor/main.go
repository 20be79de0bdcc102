//go:build linux

package main

import (
	"fmt"
	"os"
	"runtime"

	"github.com/vdestack/vdestack/bench/internal/worker"
)

func main() {
	// Its readers of descriptors keep a processor of Go while they wait: with only one,
	// each packet would wait until the scheduler notices.
	runtime.GOMAXPROCS(max(2, runtime.NumCPU()))
	c := worker.Contestant{Pair: openPair, Open: openMember}
	if err := c.Serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "gvisor:", err)
		os.Exit(1)
	}
}
