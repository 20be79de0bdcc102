module github.com/vdestack/vdestack/autoconf

go 1.26.0

require github.com/vdestack/vdestack v0.0.0

require golang.org/x/sys v0.49.0 // indirect
