package main

import (
	"fmt"
	"io"

	"github.com/vdestack/vdestack/vdeplug"
)

// list prints all schemes with their options.
func list(w io.Writer) {
	fmt.Fprint(w, `Words in capitals stand for values, and parts in [ ] may be missing. Where OPTIONS
are in [[ ]], write one pair of brackets. Options are separated by /.

`)
	for _, scheme := range vdeplug.Schemes() {
		if u, ok := vdeplug.UsageOf(scheme); ok {
			fmt.Fprint(w, u)
		} else {
			fmt.Fprintf(w, "%s://...\n", scheme)
		}
	}
}
