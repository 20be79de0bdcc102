package argv

import (
	"reflect"
	"strings"
	"testing"
)

// Except where noted, the results are those of the C programs.
var tests = []struct {
	in   string
	want [][]string
	err  string
}{
	{in: ""},
	{in: " \t\n"},
	{in: "a b\tc\nd", want: [][]string{{"a", "b", "c", "d"}}},
	{in: "a\rb\vc", want: [][]string{{"a\rb\vc"}}},
	{in: `'a b'c "d e" f"g h"i`, want: [][]string{{"a bc", "d e", "fg hi"}}},
	{in: `'' "" x''`, want: [][]string{{"", "", "x"}}},
	{in: `a\ b a\\b \"c d\" \$X \;`, want: [][]string{{"a b", `a\b`, `"c`, `d"`, "$X", ";"}}},
	{in: "\\\nx", want: [][]string{{"\nx"}}},
	{in: `"a\"b" "c\\" "d\ne"`, want: [][]string{{`a\"b`, `c\\`, `d\ne`}}},
	{in: `'a\' b`, want: [][]string{{`a\`, "b"}}},
	{in: `"a'b" 'c"d'`, want: [][]string{{"a'b", `c"d`}}},
	{in: "a > b | c & # *", want: [][]string{{"a", ">", "b", "|", "c", "&", "#", "*"}}},
	{in: "a;b c ;; d;", want: [][]string{{"a"}, {"b", "c"}, {"d"}}},
	{in: `"a;b" 'c;d'`, want: [][]string{{"a;b", "c;d"}}},
	{in: ";a", want: [][]string{{"a"}}}, // C: nothing at all
	{in: ";;"},
	{in: "$HOME x", want: [][]string{{"<HOME>", "x"}}},
	{in: "$A$B $A-c $ ${A} $a;b", want: [][]string{{"<A$B>", "<A-c>", "<>", "<{A}>", "<a>"}, {"b"}}},
	{in: `$X"a b`, want: [][]string{{`<X"a>`, "b"}}},
	{in: `x$HOME "$X" '$X' "a"$X a$`, want: [][]string{{"xHOME", "$X", "$X", "aX", "a"}}},

	{in: "a 'b c", err: `command line: byte 2, at "'b c": this quote does not end`},
	{in: `a "b\"`, err: `byte 2, at "\"b\\\"": this quote does not end`},
	{in: `a "b\`, err: `byte 2, at "\"b\\": this quote does not end`},
	{in: `abc\`, err: `byte 3, at "\\": nothing after this backslash`},
	{in: "a b\x00c", err: `byte 3, at "\x00c": a command line has no NUL`},
	{in: "'" + strings.Repeat("x", 30), err: strings.Repeat("x", 23) + `"…: this quote`},
}

func TestSplit(t *testing.T) {
	for _, tt := range tests {
		got, err := Split(tt.in, func(name string) string { return "<" + name + ">" })
		switch {
		case tt.err != "":
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("Split(%q): error %v, want one with %q", tt.in, err, tt.err)
			}
		case err != nil || !reflect.DeepEqual(got, tt.want):
			t.Errorf("Split(%q) = %q, %v, want %q", tt.in, got, err, tt.want)
		}
	}
	if got, err := Split("$HOME", nil); err != nil || !reflect.DeepEqual(got, [][]string{{""}}) {
		t.Errorf("Split without variables = %q, %v, want an empty argument", got, err)
	}
}

func FuzzSplit(f *testing.F) {
	for _, tt := range tests {
		f.Add(tt.in)
	}
	// The quoted form of what was read is read as the same.
	f.Fuzz(func(t *testing.T, line string) {
		want, err := Split(line, nil)
		if err != nil {
			return
		}
		var lines []string
		for _, args := range want {
			lines = append(lines, Join(args))
		}
		again := strings.Join(lines, ";")
		if got, err := Split(again, nil); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("Split(%q) = %q, %v, want %q", again, got, err, want)
		}
	})
}
