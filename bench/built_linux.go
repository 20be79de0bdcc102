package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
)

// builtName is the variable in which the program passes what it has built to itself in
// the private namespace: building may need the network.
const builtName = "VDESTACK_BENCH_BUILT"

// A built is what is made before the measurements.
type built struct {
	Dir   string              // holds the workers, and later sockets
	Argv  map[string][]string // the workers of the contestants
	Notes []string            // what is missing, and why
}

// build builds the workers of the contestants that are wanted, and passes the result on.
func build(ctx context.Context, wanted func(contestant string) bool) (*built, error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	b := &built{Dir: dir, Argv: make(map[string][]string)}
	for _, c := range contestants {
		if c.prepare == nil || !wanted(c.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "building the worker of %s\n", c.name)
		argv, err := c.prepare(ctx, dir)
		if err != nil {
			b.Notes = append(b.Notes, fmt.Sprintf("%s is left out: %v", c.name, err))
			continue
		}
		b.Argv[c.name] = argv
	}
	text, err := json.Marshal(b)
	if err == nil {
		err = os.Setenv(builtName, string(text))
	}
	if err != nil {
		b.remove()
		return nil, err
	}
	return b, nil
}

// inherit returns what was built outside.
func inherit() (*built, error) {
	b := new(built)
	err := json.Unmarshal([]byte(os.Getenv(builtName)), b)
	os.Unsetenv(builtName)
	return b, err
}

func (b *built) remove() { os.RemoveAll(b.Dir) }
