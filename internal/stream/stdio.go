package stream

import "os"

// Stdio is standard input and output as one stream. It ends with the program.
type Stdio struct{}

func (Stdio) Read(b []byte) (int, error)  { return os.Stdin.Read(b) }
func (Stdio) Write(b []byte) (int, error) { return os.Stdout.Write(b) }

// Close does nothing.
func (Stdio) Close() error { return nil }
