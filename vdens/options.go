package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// An option is one that a command line may have. The parser, -h, --man and the completions
// read the same table of options.
type option struct {
	names string // separated by blanks, with their dashes
	value string // what it takes, for the usage; empty for a flag
	file  bool   // it takes the name of a file
	about string
	set   func(value string) error // of a flag: "true" or "false"
}

// A showError means that the user wants text instead of a command.
type showError struct{ show func(io.Writer) error }

func (showError) Error() string { return "text is wanted" }

// showOption returns the function of a flag that asks for text.
func showOption(show func(io.Writer) error) func(string) error {
	return func(string) error { return showError{show} }
}

// parseOptions reads the options at the beginning of args and returns the rest. As with
// getopt, letters may share a dash, and a value may follow its letter at once. As with Go's
// flags, words may have one dash or two, "=" may be before any value, and a flag may have one
// too: -names=false. "--" ends the options and stays.
func parseOptions(table []option, args []string) (rest []string, err error) {
	for len(args) > 0 {
		arg := args[0]
		if arg == "--" || arg == "-" || !strings.HasPrefix(arg, "-") {
			break
		}
		args = args[1:]
		word, value, has := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		o := findOption(table, word)
		if o != nil {
			if args, err = o.apply("-"+word, value, has, args); err != nil {
				return nil, err
			}
			continue
		}
		letters := strings.TrimLeft(arg, "-")
		if letters == "" { // "---" is nothing
			return nil, fmt.Errorf("%s: unknown option", arg)
		}
		for letters != "" {
			letter := letters[:1]
			letters = letters[1:]
			if o = findOption(table, letter); o == nil || strings.HasPrefix(arg, "--") {
				return nil, fmt.Errorf("%s: unknown option", arg)
			}
			value, has := letters, o.value != "" && letters != ""
			if has {
				letters = ""
			}
			if args, err = o.apply("-"+letter, strings.TrimPrefix(value, "="), has, args); err != nil {
				return nil, err
			}
		}
	}
	return args, nil
}

// findOption returns the option with a name, which is without dashes here.
func findOption(table []option, name string) *option {
	for i := range table {
		for n := range strings.FieldsSeq(table[i].names) {
			if n, _, _ = strings.Cut(n, "="); strings.TrimLeft(n, "-") == name {
				return &table[i]
			}
		}
	}
	return nil
}

// apply sets an option. Its value is in the same argument, if has says so, or the next one.
// It returns the arguments after it.
func (o *option) apply(name, value string, has bool, args []string) ([]string, error) {
	switch {
	case o.value == "" && !has:
		value = "true"
	case o.value == "":
		if _, err := strconv.ParseBool(value); err != nil {
			return nil, fmt.Errorf("%s=%s: it takes no value but true and false", name, value)
		}
	case !has && len(args) == 0:
		return nil, noValueError{name, o}
	case !has:
		value, args = args[0], args[1:]
	}
	if err := o.set(value); err != nil {
		return nil, fmt.Errorf("%s %s: %w", name, value, err)
	}
	return args, nil
}

// A noValueError says that an option is the last word.
type noValueError struct {
	name   string // as it was given
	option *option
}

func (e noValueError) Error() string { return e.name + " needs a value: " + e.option.value }

// flagOption, textOption and listOption return functions that set a variable, or add to it.
func flagOption(p *bool) func(string) error {
	return func(value string) (err error) {
		*p, err = strconv.ParseBool(value)
		return err
	}
}

func textOption(p *string) func(string) error {
	return func(value string) error {
		*p = value
		return nil
	}
}

func listOption(p *[]string) func(string) error {
	return func(value string) error {
		*p = append(*p, value)
		return nil
	}
}
