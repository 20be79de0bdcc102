package main

import (
	"testing"
	"time"
)

// A parseTest is a row for a parser; err: an error is wanted.
type parseTest[T comparable] struct {
	name, in string
	want     T
	err      bool
}

func testParse[T comparable](t *testing.T, parse func(string) (T, error), tests []parseTest[T]) {
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parse(tt.in)
			if got != tt.want || (err != nil) != tt.err {
				t.Errorf("parsing %q: got %v, %v, want %v, error %v", tt.in, got, err, tt.want, tt.err)
			}
		})
	}
}

func TestParseCPU(t *testing.T) {
	testParse(t, parseCPU, []parseTest[time.Duration]{
		{name: "two processors", in: "cpu  100 1 20 4000 50 3 6 70 8 9\ncpu0 50 0 0 0 0 0 0 0 0 0\n", want: 1300 * time.Millisecond},
		{name: "empty", err: true},
		{name: "no sum", in: "cpu0 1 2 3 4 5 6 7 8\n", err: true},
		{name: "no number", in: "cpu  1 2 x 4 5 6 7 8\n", err: true},
	})
}

func TestParseProcess(t *testing.T) {
	testParse(t, parseProcess, []parseTest[usage]{
		{name: "odd name", in: "42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 150 50 9 9 20 0 1\n", want: usage{7, 2 * time.Second}},
		{name: "empty", err: true},
		{name: "short", in: "42 (a) S 7 42", err: true},
		{name: "no number", in: "42 (a) S x 42 42 0 -1 4194560 1 2 3 4 150 50 9 9\n", err: true},
	})
}

func TestDescendants(t *testing.T) {
	all := map[int]usage{
		1: {0, time.Hour}, 10: {1, time.Minute}, 11: {10, time.Second}, 12: {10, 2 * time.Second}, 13: {12, 4 * time.Second},
	}
	if got, want := descendants(10, all), 7*time.Second; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}
