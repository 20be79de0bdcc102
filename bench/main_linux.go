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

	"github.com/vdestack/vdestack/internal/testenv/private"
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
	if len(os.Args) == 3 && os.Args[1] == switchArg {
		if err := serveSwitch(os.Args[2]); err != nil {
			fatal(err)
		}
		return
	}
	isQuick := flag.Bool("quick", false, "one short round, for a smoke test")
	rounds := flag.Int("rounds", 0, fmt.Sprintf("number of rounds (default %d, or %d with -quick)", full.rounds, quick.rounds))
	out := flag.String("out", "bench/out", "directory for the results: results.md, results.csv, chart.svg")
	only := flag.String("only", ".", "what to measure: a regular expression for MEASUREMENT/STACK/NETWORK, such as traffic/.*/ptp")
	strict := flag.Bool("strict", false, "fail if anything is left out")
	limit := flag.Duration("timeout", 15*time.Minute, "end after this time, with what there is")
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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if os.Getenv(private.Stage) == "" {
		os.Exit(outside(ctx, b.only))
	}
	if _, _, err := private.Enter(ctx, 0, setup); err != nil {
		fatal(err)
	}
	if b.built, err = inherit(); err != nil {
		fatal(err)
	}
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	if err := b.run(ctx); err != nil {
		fatal(err)
	}
}

// outside builds the workers and runs the program again in private, and returns
// its exit status.
func outside(ctx context.Context, only *regexp.Regexp) (status int) {
	built, err := build(ctx, func(contestant string) bool { return wants(only, contestant) })
	if err != nil {
		fatal(err)
	}
	defer built.remove()
	if _, status, err = private.Enter(ctx, 0, setup); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	return status
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}
