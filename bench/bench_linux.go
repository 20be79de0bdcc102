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
	out    string         // where the values go
	only   *regexp.Regexp // what is measured
	strict bool           // nothing may be left out

	dir     string              // holds sockets and the worker in C
	argv    map[string][]string // the contestants' workers
	busy    []float64           // processors that others kept busy, one a round
	samples []sample
	notes   []string        // what was left out, and why
	left    map[string]bool // keys of what was left out
}

// run measures and reports. When ctx is done it reports what there is.
func (b *bench) run(ctx context.Context) (err error) {
	if b.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	b.prepare(ctx)
	for round := 1; round <= b.rounds && ctx.Err() == nil; round++ {
		if err := b.background(ctx); err != nil {
			break
		}
		for _, m := range measurements {
			for _, c := range m.cells {
				b.cell(ctx, round, m, c)
			}
		}
	}
	if ctx.Err() != nil {
		b.note("", "the run was ended early: %v", context.Cause(ctx))
	}
	if len(b.samples) == 0 {
		return fmt.Errorf("nothing was measured:\n%s", strings.Join(b.notes, "\n"))
	}
	b.report(os.Stdout)
	if err := b.save(); err != nil {
		return err
	}
	if b.strict && len(b.notes) > 0 {
		return fmt.Errorf("-strict, and not everything was measured:\n%s", strings.Join(b.notes, "\n"))
	}
	return nil
}

// prepare builds the workers.
func (b *bench) prepare(ctx context.Context) {
	b.argv, b.left = make(map[string][]string), make(map[string]bool)
	for _, c := range contestants {
		argv, err := c.prepare(ctx, b.dir)
		if err != nil {
			b.note("", "%s is left out: %v", c.name, err)
			continue
		}
		b.argv[c.name] = argv
	}
}

// note notes what is left out from now on.
func (b *bench) note(key, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	b.notes = append(b.notes, text)
	b.left[key] = true
	fmt.Fprintln(os.Stderr, "note:", text)
}

// cell gives a cell its turn in a measurement.
func (b *bench) cell(ctx context.Context, round int, m measurement, c cell) {
	key := fmt.Sprintf("%s/%s", m.name, c)
	if b.left[key] || b.argv[c.contestant] == nil || !b.only.MatchString(key) || ctx.Err() != nil {
		return
	}
	n := len(b.samples)
	progress := fmt.Sprintf("round %d/%d %s:", round, b.rounds, key)
	err := b.turn(ctx, m, c, func(metric string, value float64) {
		b.samples = append(b.samples, sample{round, c, metric, value})
		progress += fmt.Sprintf(" %s %.4g %s", metric, value, unitOf(metric))
	})
	switch {
	case err == nil:
		fmt.Fprintln(os.Stderr, progress)
	case ctx.Err() == nil:
		b.samples = b.samples[:n]
		b.note(key, "%s is left out from round %d on: %v", key, round, err)
	}
}

// turn starts what the cell needs, measures, and stops all of it.
func (b *bench) turn(ctx context.Context, m measurement, c cell, record func(string, float64)) (err error) {
	dir, err := os.MkdirTemp(b.dir, "")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	t := &turn{plan: b.plan, ctx: ctx, record: record}
	for _, n := range networks {
		if n.name != c.network {
			continue
		}
		path := filepath.Join(dir, "net")
		if n.start != nil {
			stop, err := n.start(ctx, path)
			if err != nil {
				return err
			}
			defer stop()
		}
		if n.ends != nil {
			t.a, t.b = n.ends(path + m.suffix)
		}
	}
	for _, k := range contestants {
		if k.name == c.contestant && k.locator != nil {
			t.a, t.b = k.locator(t.a), k.locator(t.b)
		}
	}
	if t.w, err = start(b.argv[c.contestant]...); err != nil {
		return err
	}
	defer func() {
		t.w.stop()
		if err != nil && t.w.stderr.text != "" {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(t.w.stderr.text))
		}
	}()
	return m.run(t)
}

// save writes all values to the file.
func (b *bench) save() error {
	if err := os.MkdirAll(filepath.Dir(b.out), 0o777); err != nil {
		return err
	}
	f, err := os.Create(b.out)
	if err != nil {
		return err
	}
	if err := writeCSV(f, b.samples); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
