package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"time"

	"github.com/vdestack/vdestack/internal/testenv/private"
	"golang.org/x/sys/unix"
)

func main() {
	var cfg config
	flag.DurationVar(&cfg.duration, "duration", time.Minute, "how long operations are started")
	flag.Uint64Var(&cfg.seed, "seed", 0, "decides what the workers do (default random)")
	flag.BoolVar(&cfg.verbose, "v", false, "print every operation")
	flag.Parse()
	if flag.NArg() > 0 || cfg.duration <= 0 {
		flag.Usage()
		os.Exit(2)
	}
	seeded := false
	flag.Visit(func(f *flag.Flag) { seeded = seeded || f.Name == "seed" })
	if !seeded {
		cfg.seed = rand.Uint64()
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	inside, status, err := private.Enter(ctx, 0, private.Loopback)
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
	if !inside {
		os.Exit(status)
	}
	cfg.out = os.Stdout
	if !run(ctx, cfg) {
		os.Exit(1)
	}
}
