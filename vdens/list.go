package main

import (
	"fmt"
	"io"

	"github.com/vdestack/vdestack/vdeplug"
)

// list writes all schemes with their options.
func list(w io.Writer) {
	fmt.Fprint(w, `What is in capitals is yours to write, and what is in [ ] may be missing; where
OPTIONS are in [[ ]], one pair of brackets is written. Options are separated by /.

`)
	for _, scheme := range vdeplug.Schemes() {
		if u, ok := vdeplug.UsageOf(scheme); ok {
			fmt.Fprint(w, u)
		} else {
			fmt.Fprintf(w, "%s://...\n", scheme)
		}
	}
}
