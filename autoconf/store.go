package autoconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
)

// A Store keeps what sources want to find again: leases, so that a server is asked for the
// same address, and the identity by which it knows the client. Its methods may be called
// from several goroutines at once. What they return as an error is an [Event], and changes
// nothing else.
type Store interface {
	// Load returns what was saved last under a key, and fs.ErrNotExist if nothing was.
	Load(key string) ([]byte, error)
	// Save keeps JSON data under a key, made of the names of the stack, the interface and
	// the source, such as "stack/vde0/dhcp4". Stacks that share a store need names of
	// their own.
	Save(key string, data []byte) error
}

// DirStore returns a Store in a directory, which is made if it does not exist: one file for
// each key, for the user alone, and replaced in one step. A file that another user than root
// has, or may write to, is not read, nor is a symbolic link. Who runs as two users needs two
// directories.
func DirStore(path string) Store { return dirStore(path) }

type dirStore string

// maxStored is the largest data that is taken from a store.
const maxStored = 1 << 16

func (d dirStore) file(key string) string {
	return filepath.Join(string(d), url.PathEscape(key)+".json")
}

func (d dirStore) Load(key string) ([]byte, error) {
	f, err := openStored(d.file(key))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxStored+1))
}

func (d dirStore) Save(key string, data []byte) (err error) {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(string(d), ".new-*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), d.file(key))
	}
	return err
}

// load returns what is stored under a key, nil if there is nothing.
func load(s Store, key string) (json.RawMessage, error) {
	data, err := s.Load(key)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("what is stored for %s: %w", key, err)
	case len(data) > maxStored:
		return nil, fmt.Errorf("what is stored for %s is ignored: it has more than %d bytes", key, maxStored)
	case !json.Valid(data):
		return nil, fmt.Errorf("what is stored for %s is ignored: it is not JSON", key)
	}
	return data, nil
}
