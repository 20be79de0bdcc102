package main

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/vdestack/vdestack/vdeplug"
)

// completeOption is the first argument with which the scripts in completion/ ask for what may
// follow; the others are the words of the line, and the last one is to be completed.
const completeOption = "--complete"

// What complete writes in the place of words that the shell knows better.
const (
	completeFiles    = ":files"
	completeCommands = ":commands"
)

//go:embed completion
var completionScripts embed.FS

// showCompletion has the script for a shell shown.
func showCompletion(shell string) error {
	script, err := completionScripts.ReadFile("completion/" + shell)
	if err != nil {
		return errors.New("there are scripts for bash, zsh and fish")
	}
	return showError{func(w io.Writer) error {
		_, err := w.Write(script)
		return err
	}}
}

// complete writes what the last word may be, a line each: the word, and after a tab what it
// means.
func complete(w io.Writer, words []string) {
	last, words := words[max(len(words)-1, 0):], words[:max(len(words)-1, 0)]
	prefix := strings.Join(last, "")
	first := len(words) == 0
	plug := !first && words[0] == "plug"
	o, p := &options{}, &plugCommand{}
	table, split := silent(o.table(), &o.multi), o.split
	if plug {
		table, split = silent(p.table(), nil), p.split
		words = words[1:]
	}
	err := split(table, words)
	command := o.command
	if plug {
		command = p.command
	}
	noValue, wantsValue := errors.AsType[noValueError](err)
	var found []string
	add := func(word, about string) {
		if strings.HasPrefix(word, prefix) {
			about, _, _ = strings.Cut(about, "\n")
			found = append(found, strings.TrimSuffix(word+"\t"+about, "\t"))
		}
	}
	switch {
	case wantsValue && noValue.option.file:
		found = []string{completeFiles}
	case err != nil: // the command line is wrong, or what its value is nobody knows
	case command != nil && len(command) == 0:
		found = []string{completeCommands}
	case command != nil:
		found = []string{completeFiles}
	case strings.HasPrefix(prefix, "-"):
		for _, option := range table {
			for name := range strings.FieldsSeq(option.names) {
				add(name, option.about)
			}
		}
		add("--", "the command follows")
	default:
		for _, scheme := range vdeplug.Schemes() {
			u, _ := vdeplug.UsageOf(scheme)
			add(scheme+"://", u.About)
		}
		if first {
			add("plug", "join two networks")
		}
		switch {
		case plug:
			add("=", "a command follows")
			found = append(found, completeFiles)
		case len(o.networks) == 0 || o.multi:
			found = append(found, completeFiles)
		default:
			found = append(found, completeCommands)
		}
	}
	for _, line := range found {
		fmt.Fprintln(w, line)
	}
}

// silent returns a table whose options set nothing but multi, which may be nil.
func silent(table []option, multi *bool) []option {
	for i := range table {
		set := func(string) error { return nil }
		if multi != nil && slices.Contains(strings.Fields(table[i].names), "-m") {
			set = flagOption(multi)
		}
		table[i].set = set
	}
	return table
}
