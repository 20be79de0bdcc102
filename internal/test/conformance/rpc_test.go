package conformance

import (
	"bytes"
	"errors"
	"io"
	"net/rpc"
	"net/rpc/jsonrpc"
	"sync"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

// Store is a service of package net/rpc.
type Store struct {
	mu     sync.Mutex // guards values
	values map[uint64][]byte
}

// Put is what Store.Put stores.
type Put struct {
	Key   uint64
	Value []byte
}

// Put stores a value and returns its hash.
func (s *Store) Put(p Put, hash *string) (err error) {
	s.mu.Lock()
	s.values[p.Key] = p.Value
	s.mu.Unlock()
	*hash, err = sum(bytes.NewReader(p.Value))
	return err
}

// Get returns a value.
func (s *Store) Get(key uint64, value *[]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.values[key]
	if !ok {
		return errors.New("no such key")
	}
	*value = v
	return nil
}

// TestRPC makes many calls at once over one connection, with both codecs.
func TestRPC(t *testing.T) {
	testenv.Long(t)
	guard(t)
	codecs := []struct {
		name   string
		serve  func(*rpc.Server, io.ReadWriteCloser)
		client func(io.ReadWriteCloser) *rpc.Client
	}{
		{"gob", func(s *rpc.Server, c io.ReadWriteCloser) { s.ServeConn(c) }, rpc.NewClient},
		{"JSON", func(s *rpc.Server, c io.ReadWriteCloser) { s.ServeCodec(jsonrpc.NewServerCodec(c)) }, jsonrpc.NewClient},
	}
	for _, r := range routes(t) {
		for _, codec := range codecs {
			t.Run(r.name+", "+codec.name, func(t *testing.T) {
				near, far := r.connect(t)
				server := rpc.NewServer()
				testenv.Check(t, server.Register(&Store{values: make(map[uint64][]byte)}))
				served := make(chan struct{})
				go func() {
					codec.serve(server, far)
					close(served)
				}()
				client := codec.client(near)
				var wg sync.WaitGroup
				for i := range uint64(100) {
					wg.Go(func() {
						p := payload{i, 3000}
						var hash string
						if err := client.Call("Store.Put", Put{i, p.bytes()}, &hash); err != nil || hash != p.sum() {
							t.Errorf("Put %d: got %s, %v, want %s", i, hash, err, p.sum())
						}
						var value []byte
						if err := client.Call("Store.Get", i, &value); err != nil || !bytes.Equal(value, p.bytes()) {
							t.Errorf("Get %d: got %d bytes, %v, want %d", i, len(value), err, p.size)
						}
					})
				}
				wg.Wait()
				var value []byte
				if err := client.Call("Store.Get", uint64(1000), &value); err == nil || err.Error() != "no such key" {
					t.Errorf("Get of a missing key: %v", err)
				}
				if err := client.Close(); err != nil {
					t.Error(err)
				}
				await(t, "the end of the server", served)
				if err := client.Call("Store.Get", uint64(1), &value); err != rpc.ErrShutdown {
					t.Errorf("a call after Close: %v", err)
				}
			})
		}
	}
}
