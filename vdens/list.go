package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/vdestack/vdestack/vdeplug"
)

// list prints all schemes with their options.
func list(w io.Writer) error {
	var b strings.Builder
	b.WriteString(`Words in capitals stand for values, and parts in [ ] may be missing. Where OPTIONS
are in [[ ]], write one pair of brackets. Options are separated by /.

`)
	for _, scheme := range vdeplug.Schemes() {
		if u, ok := vdeplug.UsageOf(scheme); ok {
			b.WriteString(u.String())
		} else {
			fmt.Fprintf(&b, "%s://...\n", scheme)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
