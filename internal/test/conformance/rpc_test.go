package conformance

import (
	"bytes"
	"errors"
	"io"
	"net/rpc"
	"net/rpc/jsonrpc"
	"sync"
	"testing"
	"time"

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

// TestRPCClients has several clients of one server.
func TestRPCClients(t *testing.T) {
	testenv.Long(t)
	over(t, ethernet, func(t *testing.T, r route) {
		server := rpc.NewServer()
		testenv.Check(t, server.Register(&Store{values: make(map[uint64][]byte)}))
		ln := r.listen(t)
		var wg sync.WaitGroup
		const clients = 20
		wg.Go(func() {
			ln.SetDeadline(time.Now().Add(testenv.Timeout))
			for range clients {
				c, err := ln.Accept()
				if err != nil {
					t.Error(err)
					return
				}
				c.SetDeadline(time.Now().Add(testenv.Timeout))
				wg.Go(func() { server.ServeConn(c) })
			}
		})
		for i := range uint64(clients) {
			wg.Go(func() {
				c, err := r.dial(t.Context(), ln.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				client := rpc.NewClient(c)
				defer client.Close()
				p := payload{i, 1000}
				var hash string
				call := client.Go("Store.Put", Put{i, p.bytes()}, &hash, nil)
				select {
				case <-call.Done:
				case <-time.After(testenv.Timeout):
					t.Errorf("client %d: no answer", i)
					return
				}
				if call.Error != nil || hash != p.sum() {
					t.Errorf("client %d: got %s, %v, want %s", i, hash, call.Error, p.sum())
				}
			})
		}
		wg.Wait()
	})
}
