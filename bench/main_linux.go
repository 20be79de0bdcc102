package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "worker" {
		c := workers[os.Args[2]]
		if c == nil {
			fatal(fmt.Errorf("unknown worker %q", os.Args[2]))
		}
		if err := c.Serve(os.Stdin, os.Stdout); err != nil {
			fatal(err)
		}
		return
	}
	isQuick := flag.Bool("quick", false, "one short round, for a smoke test")
	rounds := flag.Int("rounds", 0, fmt.Sprintf("number of rounds (default %d, or %d with -quick)", full.rounds, quick.rounds))
	out := flag.String("out", "bench/out/results.csv", "file for all values")
	only := flag.String("only", ".", "what to measure: a regular expression for MEASUREMENT/STACK/NETWORK, such as traffic/.*/ptp")
	strict := flag.Bool("strict", false, "fail if anything is left out")
	limit := flag.Duration("timeout", 6*time.Minute, "end after this time, with what there is")
	flag.Parse()
	if flag.NArg() > 0 || *rounds < 0 {
		flag.Usage()
		os.Exit(2)
	}
	b := &bench{plan: full, out: *out, strict: *strict}
	if *isQuick {
		b.plan = quick
	}
	if *rounds > 0 {
		b.rounds = *rounds
	}
	var err error
	if b.only, err = regexp.Compile(*only); err != nil {
		fatal(fmt.Errorf("-only: %w", err))
	}

	runtime.LockOSThread() // see process
	inside, status, err := private()
	if err != nil {
		fatal(err)
	}
	if !inside {
		os.Exit(status)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	if err := b.run(ctx); err != nil {
		fatal(err)
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}
