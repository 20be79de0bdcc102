//go:build !unix

package main

import "errors"

func inBackground() bool { return true }

func startBackground() int { return 0 }

func leave() error { return errors.ErrUnsupported }

func createPIDFile(string) (func(), error) { return nil, errors.ErrUnsupported }

func newSyslog() (func(string), error) { return nil, errors.ErrUnsupported }
