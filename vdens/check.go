package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/vdestack/vdestack"
)

// statusRefused is the exit status of --check where there can be no stack.
const statusRefused = 1

// check prints what works on this machine. Where no stack does, it ends the program.
func check(w io.Writer) error {
	r, err := vdestack.Check(context.Background())
	if err != nil {
		return err
	}
	if _, err := fmt.Fprint(w, r); err != nil {
		return err
	}
	if r.Err() != nil {
		os.Exit(statusRefused)
	}
	return nil
}
