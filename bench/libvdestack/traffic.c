/* Streams and round trips. */
#include "worker.h"
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define WARM_UP 50 /* round trips that are not counted */
#define RETRY 5000 /* microseconds until the next try to connect */

/* A transfer is what a request asks for. */
struct transfer {
	int streams, size, ms;
	in_port_t port;
	int listener;
	int64_t received, took;
	int count;      /* round trips */
	int64_t *times; /* of each */
};

/* A side is one of the two threads of a transfer. The main thread only waits for
   them: errno is not its own, the library's helper writes to it. */
struct side {
	struct transfer *transfer;
	void (*run)(struct transfer *);
};

/* A flow is one connection of a transfer. */
struct flow {
	int fd, size;
	int64_t end, received;
};

/* prepare gives the calls on a socket a time limit, and disables Nagle's delay. */
static void prepare(int fd, int ms)
{
	struct timeval limit = {.tv_sec = SPARE + ms / 1000};
	int one = 1;
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit)
	    || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit)
	    || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one))
		fail("socket");
}

/* listen_first listens in the first stack, at the port of the transfer, or at
   any if that is 0. */
static void listen_first(struct transfer *t)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr = address, .sin_port = t->port};
	socklen_t len = sizeof sin;
	int one = 1;
	t->listener = vde_msocket(first, AF_INET, SOCK_STREAM, 0);
	prepare(t->listener, t->ms);
	if (setsockopt(t->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0
	    || bind(t->listener, (struct sockaddr *)&sin, sizeof sin) < 0
	    || getsockname(t->listener, (struct sockaddr *)&sin, &len) < 0
	    || listen(t->listener, MAX_THREADS) < 0)
		fail("listen");
	t->port = sin.sin_port;
}

static int accept_first(struct transfer *t)
{
	int fd = accept(t->listener, NULL, NULL);
	prepare(fd, t->ms);
	return fd;
}

/* connect_second connects to where the first stack will listen. */
static int connect_second(struct transfer *t)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr = address, .sin_port = t->port};
	int64_t end = now() + SPARE * INT64_C(1000000000);
	for (;;) {
		int fd = vde_msocket(second, AF_INET, SOCK_STREAM, 0);
		prepare(fd, t->ms);
		if (connect(fd, (struct sockaddr *)&sin, sizeof sin) == 0)
			return fd;
		if (errno != ECONNREFUSED || now() > end)
			fail("connect");
		close(fd);
		usleep(RETRY);
	}
}

static int full(ssize_t (*io)(int, void *, size_t), int fd, char *buf, int size)
{
	for (int done = 0; done < size;) {
		ssize_t n = io(fd, buf + done, size - done);
		if (n <= 0) {
			if (n == 0)
				errno = ECONNRESET;
			return -1;
		}
		done += n;
	}
	return 0;
}

static ssize_t send_part(int fd, void *buf, size_t n)
{
	return send(fd, buf, n, MSG_NOSIGNAL);
}

static void *flow_send(void *arg)
{
	struct flow *f = arg;
	char *buf = calloc(1, f->size);
	while (now() < f->end)
		if (full(send_part, f->fd, buf, f->size) < 0)
			fail("send");
	shutdown(f->fd, SHUT_WR);
	/* The end of the other direction says that everything has arrived. */
	if (read(f->fd, buf, f->size) < 0)
		fail("send");
	free(buf);
	close(f->fd);
	return NULL;
}

static void *flow_receive(void *arg)
{
	struct flow *f = arg;
	char *buf = malloc(f->size);
	ssize_t n;
	while ((n = read(f->fd, buf, f->size)) > 0)
		f->received += n;
	if (n < 0)
		fail("receive");
	f->end = now();
	free(buf);
	close(f->fd);
	return NULL;
}

static void send_side(struct transfer *t)
{
	struct flow flows[MAX_THREADS] = {0};
	for (int i = 0; i < t->streams && i < MAX_THREADS; i++)
		flows[i] = (struct flow){.fd = connect_second(t), .size = t->size};
	int64_t end = now() + t->ms * INT64_C(1000000);
	for (int i = 0; i < t->streams && i < MAX_THREADS; i++)
		flows[i].end = end;
	run(flow_send, t->streams, flows, sizeof *flows);
}

static void receive_side(struct transfer *t)
{
	struct flow flows[MAX_THREADS] = {0};
	int64_t start = 0;
	for (int i = 0; i < t->streams && i < MAX_THREADS; i++) {
		flows[i] = (struct flow){.fd = accept_first(t), .size = t->size};
		if (i == 0)
			start = now();
	}
	run(flow_receive, t->streams, flows, sizeof *flows);
	for (int i = 0; i < t->streams; i++) {
		t->received += flows[i].received;
		if (flows[i].end - start > t->took)
			t->took = flows[i].end - start;
	}
}

static void *run_side(void *arg)
{
	struct side *s = arg;
	s->run(s->transfer);
	return NULL;
}

/* transfer runs one or both sides. */
static void transfer(struct transfer *t, void (*receive)(struct transfer *), void (*send)(struct transfer *))
{
	struct side sides[2];
	int n = 0;
	if (receive != NULL) {
		listen_first(t);
		sides[n++] = (struct side){t, receive};
	}
	if (send != NULL)
		sides[n++] = (struct side){t, send};
	run(run_side, n, sides, sizeof *sides);
	if (receive != NULL)
		close(t->listener);
}

/* received answers with what has arrived; nobody counts allocations. */
static void received(struct transfer *t)
{
	printf("ok\t%lld\t%lld\t0\t0\n", (long long)t->received, (long long)t->took);
}

void answer_stream(int streams, int size, int ms)
{
	struct transfer t = {.streams = streams, .size = size, .ms = ms};
	transfer(&t, receive_side, send_side);
	received(&t);
}

void answer_receive(int streams, int size, int ms)
{
	struct transfer t = {.streams = streams, .size = size, .ms = ms, .port = htons(PORT)};
	transfer(&t, receive_side, NULL);
	received(&t);
}

void answer_send(int streams, int size, int ms)
{
	struct transfer t = {.streams = streams, .size = size, .ms = ms, .port = htons(PORT)};
	transfer(&t, NULL, send_side);
	puts("ok");
}

static void rtt_client(struct transfer *t)
{
	char *buf = calloc(1, t->size);
	int fd = connect_second(t);
	for (int i = 0; i < WARM_UP + t->count; i++) {
		int64_t start = now();
		if (full(send_part, fd, buf, t->size) < 0 || full(read, fd, buf, t->size) < 0)
			fail("rtt");
		if (i >= WARM_UP)
			t->times[i - WARM_UP] = now() - start;
	}
	close(fd);
	free(buf);
}

static void rtt_server(struct transfer *t)
{
	char *buf = malloc(t->size);
	int fd = accept_first(t);
	while (full(read, fd, buf, t->size) == 0 && full(send_part, fd, buf, t->size) == 0)
		;
	close(fd);
	free(buf);
}

void answer_rtt(int size, int count)
{
	struct transfer t = {.streams = 1, .size = size, .count = count};
	t.times = calloc(count, sizeof *t.times);
	transfer(&t, rtt_server, rtt_client);
	printf("ok");
	for (int i = 0; i < count; i++)
		printf("\t%lld", (long long)t.times[i]);
	printf("\n");
	free(t.times);
}
