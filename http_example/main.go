// Http_example is a web server on one TCP/IP stack and a web client on another,
// with net/http as it is: the server gets a listener of its stack, the client a
// dialer of its own.
//
//	go run ./http_example
//
// runs both on a network inside the process. With a locator, both are on that
// network, where other programs can visit the server as well. Each can be alone,
// in different processes or on different machines:
//
//	go run ./http_example -serve vxvde://234.0.0.1
//	go run ./http_example -get http://10.0.0.1/ vxvde://234.0.0.1
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/vdestack/vdestack"
)

func main() {
	serve := flag.Bool("serve", false, "only serve, until interrupted")
	get := flag.String("get", "", "only get this `URL`")
	serverAddrs := flag.String("server", "10.0.0.1/24,fc00::1:1/64", "`addresses` of the server")
	clientAddrs := flag.String("client", "10.0.0.2/24,fc00::1:2/64", "`addresses` of the client")
	port := flag.String("port", "80", "TCP `port` of the server")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: http_example [-serve | -get URL] [flags] [locator]")
		flag.PrintDefaults()
	}
	flag.Parse()
	vnl := flag.Arg(0)
	alone := *serve || *get != ""
	if flag.NArg() > 1 || *serve && *get != "" || alone && vnl == "" {
		flag.Usage() // one alone would wait for ever on a network inside the process
		os.Exit(2)
	}
	if vnl == "" {
		vnl = "mem://http_example"
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, vnl, strings.Split(*serverAddrs, ","), strings.Split(*clientAddrs, ","), *port, *serve, *get)
	if err != nil && ctx.Err() == nil { // one that was interrupted has ended as it should
		fmt.Fprintln(os.Stderr, "http_example:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, vnl string, server, client []string, port string, serve bool, get string) error {
	urls := []string{get}
	if get == "" {
		site, err := openSite(vnl, server, port)
		if err != nil {
			return err
		}
		defer site.close()
		fmt.Printf("server: %s on %s\n", strings.Join(site.urls, " and "), vnl)
		if serve {
			return site.wait(ctx)
		}
		urls = site.urls
	}
	return visit(ctx, vnl, client, urls)
}

// A site is a web server in a stack.
type site struct {
	stack  *vdestack.Stack
	server *http.Server
	urls   []string
	ended  chan error
}

func openSite(vnl string, addrs []string, port string) (*site, error) {
	stack, err := vdestack.Open(vnl, addrs...)
	if err != nil {
		return nil, err
	}
	ln, err := stack.Listen("tcp", net.JoinHostPort("", port)) // both IPv4 and IPv6
	if err != nil {
		stack.Close()
		return nil, err
	}
	s := &site{
		stack:  stack,
		server: &http.Server{Handler: http.HandlerFunc(hello), ReadHeaderTimeout: 10 * time.Second},
		ended:  make(chan error, 1),
	}
	for _, a := range addrs {
		host := netip.MustParsePrefix(a).Addr().String() // Open accepted it
		s.urls = append(s.urls, "http://"+strings.TrimSuffix(net.JoinHostPort(host, port), ":80")+"/")
	}
	go func() { s.ended <- s.server.Serve(ln) }()
	return s, nil
}

// hello is the page of the site: it tells the ends of the connection.
func hello(w http.ResponseWriter, r *http.Request) {
	here := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	fmt.Fprintf(w, "Hello %s, this is %s on a stack of its own.\n", r.RemoteAddr, here)
}

// wait serves until ctx is done.
func (s *site) wait(ctx context.Context) error {
	select {
	case err := <-s.ended:
		return err
	case <-ctx.Done():
		return nil
	}
}

func (s *site) close() error {
	return errors.Join(s.server.Close(), s.stack.Close())
}

// visit gets the pages from another stack.
func visit(ctx context.Context, vnl string, addrs, urls []string) error {
	stack, err := vdestack.Open(vnl, addrs...)
	if err != nil {
		return err
	}
	defer stack.Close()
	fmt.Printf("client: %s on %s\n", strings.Join(addrs, " and "), vnl)

	// stack.HTTPClient() makes one like this, with more settings.
	client := &http.Client{
		Transport: &http.Transport{DialContext: stack.DialContext},
		Timeout:   10 * time.Second,
	}
	defer client.CloseIdleConnections()
	for _, url := range urls {
		if err := show(ctx, client, url); err != nil {
			return err
		}
	}
	return nil
}

func show(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	fmt.Printf("\nGET %s: %s\n", url, resp.Status)
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}
