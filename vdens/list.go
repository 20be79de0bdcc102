package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/vdestack/vdestack/vdeplug"
)

// list writes all schemes with their options.
func list(w io.Writer) {
	fmt.Fprint(w, `What is in capitals is yours to write, and what is in [ ] may be missing; where
OPTIONS are in [[ ]], one pair of brackets is written. Options are separated by /.

`)
	for _, scheme := range vdeplug.Schemes() {
		u, ok := vdeplug.UsageOf(scheme)
		if !ok {
			fmt.Fprintf(w, "%s://...\n", scheme)
			continue
		}
		fmt.Fprintf(w, "%s\n    %s\n", u.Form, u.About)
		width := 0
		for _, o := range u.Options {
			width = max(width, len(optionForm(o)))
		}
		for _, o := range u.Options {
			fmt.Fprintf(w, "      %-*s  %s", width, optionForm(o), o.About)
			if o.Default != "" {
				fmt.Fprintf(w, "; %s by default", o.Default)
			}
			if len(o.Aliases) > 0 {
				fmt.Fprintf(w, " (also %s)", strings.Join(o.Aliases, ", "))
			}
			fmt.Fprintln(w)
		}
	}
}

// optionForm returns how an option is written.
func optionForm(o vdeplug.OptionUsage) string {
	if o.Value == "" || o.Name == "" {
		return o.Name + o.Value
	}
	return o.Name + "=" + o.Value
}
