package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// A bench is one run of the program.
type bench struct {
	plan
	*built
	out    string         // the directory for the results
	only   *regexp.Regexp // what is measured
	strict bool           // nothing may be left out

	busy    []float64 // processors that other programs kept busy, one a round
	samples []sample
	left    map[string]bool // keys of what was left out
}

// run measures and reports. When ctx is done it reports what there is.
func (b *bench) run(ctx context.Context) error {
	b.left = make(map[string]bool)
	for _, n := range b.Notes {
		fmt.Fprintln(os.Stderr, "note:", n)
	}
	for round := 1; round <= b.rounds && ctx.Err() == nil; round++ {
		if err := b.background(ctx); err != nil {
			break
		}
		for _, m := range measurements {
			if m.once && round > 1 {
				continue
			}
			for _, c := range m.cells {
				b.cell(ctx, round, m, c)
			}
		}
	}
	if ctx.Err() != nil {
		b.note("", "the run was ended early: %v", context.Cause(ctx))
	}
	if len(b.samples) == 0 {
		return fmt.Errorf("nothing was measured:\n%s", strings.Join(b.Notes, "\n"))
	}
	if err := b.report(os.Stdout); err != nil {
		return err
	}
	if b.strict && len(b.Notes) > 0 {
		return fmt.Errorf("-strict, and not everything was measured:\n%s", strings.Join(b.Notes, "\n"))
	}
	return nil
}

// wants reports whether a contestant takes part in what is measured.
func wants(only *regexp.Regexp, contestant string) bool {
	for _, m := range measurements {
		for _, c := range m.cells {
			k := contestantOf(c.contestant)
			if (k.name == contestant || k.sender == contestant || k.receiver == contestant) && only.MatchString(keyOf(m, c)) {
				return true
			}
		}
	}
	return false
}

func keyOf(m measurement, c cell) string { return m.name + "/" + c.String() }

// note records what is left out from now on.
func (b *bench) note(key, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	b.Notes = append(b.Notes, text)
	b.left[key] = true
	fmt.Fprintln(os.Stderr, "note:", text)
}

// takesPart reports whether the contestant has what it needs.
func (b *bench) takesPart(name string) bool {
	c := contestantOf(name)
	if c.sender != "" {
		return b.takesPart(c.sender) && b.takesPart(c.receiver)
	}
	return b.Argv[name] != nil
}

// cell measures a cell, unless that was left out.
func (b *bench) cell(ctx context.Context, round int, m measurement, c cell) {
	key := keyOf(m, c)
	if b.left[key] || !b.takesPart(c.contestant) || !b.only.MatchString(key) || ctx.Err() != nil {
		return
	}
	n := len(b.samples)
	progress := fmt.Sprintf("round %d/%d %s:", round, b.rounds, key)
	err := b.try(ctx, m, c, func(metric string, value float64) {
		b.samples = append(b.samples, sample{round, c, metric, value})
		progress += strings.TrimSuffix(fmt.Sprintf(" %s %.4g %s", metric, value, unitOf(metric)), " ") + ","
	})
	switch {
	case err == nil:
		fmt.Fprintln(os.Stderr, strings.TrimSuffix(progress, ","))
		if m.isolated { // of many stacks
			awaitCalm(ctx) // an error is the next cell's
		}
	case ctx.Err() == nil:
		b.samples = b.samples[:n]
		b.note(key, "%s is left out from round %d on: %v", key, round, err)
	}
}

// save writes a file of the results.
func (b *bench) save(name string, content []byte) error {
	if err := os.MkdirAll(b.out, 0o777); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.out, name), content, 0o666)
}
