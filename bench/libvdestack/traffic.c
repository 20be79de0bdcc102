/* Streams and round trips. */
#include "worker.h"
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define WARM_UP 50 /* round trips that are not counted */
#define RETRY 5000 /* microseconds until the next try to connect */

/* A transfer is what the threads of a request share. The main thread only
   waits for them: errno is not its own, the library's helper writes to it. */
struct transfer {
	int streams, size, ms;
	in_port_t port;
	int listener;
	int64_t received, took;
	int count;      /* round trips */
	int64_t *times; /* of each */
	int sent, got;  /* errno of each side */
};

/* A flow is one connection of a transfer. */
struct flow {
	int fd, size;
	int64_t end, received;
	int error;
};

/* prepare gives the calls on a socket a time limit, and sends at once. */
static int prepare(int fd, int ms)
{
	struct timeval limit = {.tv_sec = SPARE + ms / 1000};
	int one = 1;
	return setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit)
		|| setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit)
		|| setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

/* listen_first listens in the first stack, at the port of the transfer, or at
   any if that is 0. */
static int listen_first(struct transfer *t)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr = address, .sin_port = t->port};
	socklen_t len = sizeof sin;
	int one = 1;
	t->listener = vde_msocket(first, AF_INET, SOCK_STREAM, 0);
	if (t->listener < 0)
		return -1;
	if (setsockopt(t->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0
	    || prepare(t->listener, t->ms) < 0
	    || bind(t->listener, (struct sockaddr *)&sin, sizeof sin) < 0
	    || getsockname(t->listener, (struct sockaddr *)&sin, &len) < 0
	    || listen(t->listener, MAX_THREADS) < 0) {
		int e = errno;
		close(t->listener);
		errno = e;
		return -1;
	}
	t->port = sin.sin_port;
	return 0;
}

/* connect_second connects to where the first stack will listen. */
static int connect_second(struct transfer *t)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr = address, .sin_port = t->port};
	int64_t end = now() + SPARE * INT64_C(1000000000);
	for (;;) {
		int fd = vde_msocket(second, AF_INET, SOCK_STREAM, 0);
		if (fd < 0)
			return -1;
		if (prepare(fd, t->ms) == 0 && connect(fd, (struct sockaddr *)&sin, sizeof sin) == 0)
			return fd;
		int e = errno;
		close(fd);
		errno = e;
		if (e != ECONNREFUSED || now() > end)
			return -1;
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
	while (f->error == 0 && now() < f->end)
		if (full(send_part, f->fd, buf, f->size) < 0)
			f->error = errno;
	shutdown(f->fd, SHUT_WR);
	/* The end of the other direction says that everything has arrived. */
	if (f->error == 0 && read(f->fd, buf, f->size) < 0)
		f->error = errno;
	free(buf);
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
		f->error = errno;
	f->end = now();
	free(buf);
	return NULL;
}

/* run_flows runs one thread a flow, closes the sockets, and returns an errno. */
static int run_flows(struct flow *flows, int count, void *(*run)(void *))
{
	pthread_t id[MAX_THREADS];
	int error = 0, started;
	for (started = 0; started < count; started++)
		if ((error = pthread_create(&id[started], NULL, run, &flows[started])) != 0)
			break;
	for (int i = 0; i < started; i++) {
		pthread_join(id[i], NULL);
		if (flows[i].error)
			error = flows[i].error;
	}
	for (int i = 0; i < count; i++)
		close(flows[i].fd);
	return error;
}

static void *send_side(void *arg)
{
	struct transfer *t = arg;
	struct flow flows[MAX_THREADS] = {0};
	for (int i = 0; i < t->streams; i++) {
		flows[i].size = t->size;
		if ((flows[i].fd = connect_second(t)) < 0) {
			t->sent = errno;
			while (i-- > 0)
				close(flows[i].fd);
			return NULL;
		}
	}
	int64_t end = now() + t->ms * INT64_C(1000000);
	for (int i = 0; i < t->streams; i++)
		flows[i].end = end;
	t->sent = run_flows(flows, t->streams, flow_send);
	return NULL;
}

static void *receive_side(void *arg)
{
	struct transfer *t = arg;
	struct flow flows[MAX_THREADS] = {0};
	int64_t start = 0;
	for (int i = 0; i < t->streams; i++) {
		flows[i].size = t->size;
		flows[i].fd = accept(t->listener, NULL, NULL);
		if (flows[i].fd < 0 || prepare(flows[i].fd, t->ms) < 0) {
			t->got = errno;
			for (; i >= 0; i--)
				if (flows[i].fd >= 0)
					close(flows[i].fd);
			return NULL;
		}
		if (i == 0)
			start = now();
	}
	t->got = run_flows(flows, t->streams, flow_receive);
	for (int i = 0; i < t->streams; i++) {
		t->received += flows[i].received;
		if (flows[i].end - start > t->took)
			t->took = flows[i].end - start;
	}
	return NULL;
}

/* run runs one or both sides of a transfer; its error is in errno. */
static int run(struct transfer *t, void *(*send)(void *), void *(*receive)(void *))
{
	pthread_t s, r;
	int e = 0;
	if (t->streams > MAX_THREADS) {
		errno = EINVAL;
		return -1;
	}
	if (receive != NULL)
		e = pthread_create(&r, NULL, receive, t);
	if (e == 0 && send != NULL) {
		if ((e = pthread_create(&s, NULL, send, t)) == 0)
			pthread_join(s, NULL);
		else if (receive != NULL)
			shutdown(t->listener, SHUT_RDWR);
	}
	if (receive != NULL)
		pthread_join(r, NULL);
	if (e == 0)
		e = t->sent ? t->sent : t->got;
	errno = e;
	return e ? -1 : 0;
}

/* received answers with what has arrived; nobody counts allocations. */
static void received(struct transfer *t)
{
	printf("ok\t%lld\t%lld\t0\t0\n", (long long)t->received, (long long)t->took);
}

void answer_stream(int streams, int size, int ms)
{
	struct transfer t = {.streams = streams, .size = size, .ms = ms};
	if (listen_first(&t) < 0)
		return fail("listen");
	int ret = run(&t, send_side, receive_side), e = errno;
	close(t.listener);
	errno = e;
	if (ret < 0)
		return fail("stream");
	received(&t);
}

void answer_receive(int streams, int size, int ms)
{
	struct transfer t = {.streams = streams, .size = size, .ms = ms, .port = htons(PORT)};
	if (listen_first(&t) < 0)
		return fail("listen");
	int ret = run(&t, NULL, receive_side), e = errno;
	close(t.listener);
	errno = e;
	if (ret < 0)
		return fail("receive");
	received(&t);
}

void answer_send(int streams, int size, int ms)
{
	struct transfer t = {.streams = streams, .size = size, .ms = ms, .port = htons(PORT)};
	if (run(&t, send_side, NULL) < 0)
		return fail("send");
	puts("ok");
}

static void *rtt_client(void *arg)
{
	struct transfer *t = arg;
	char *buf = calloc(1, t->size);
	int fd = connect_second(t);
	if (fd < 0)
		t->sent = errno;
	for (int i = 0; t->sent == 0 && i < WARM_UP + t->count; i++) {
		int64_t start = now();
		if (full(send_part, fd, buf, t->size) < 0 || full(read, fd, buf, t->size) < 0)
			t->sent = errno;
		else if (i >= WARM_UP)
			t->times[i - WARM_UP] = now() - start;
	}
	if (fd >= 0)
		close(fd);
	free(buf);
	return NULL;
}

static void *rtt_server(void *arg)
{
	struct transfer *t = arg;
	char *buf = malloc(t->size);
	int fd = accept(t->listener, NULL, NULL);
	if (fd < 0 || prepare(fd, 0) < 0)
		t->got = errno;
	else
		while (full(read, fd, buf, t->size) == 0 && full(send_part, fd, buf, t->size) == 0)
			;
	if (fd >= 0)
		close(fd);
	free(buf);
	return NULL;
}

void answer_rtt(int size, int count)
{
	struct transfer t = {.streams = 1, .size = size, .count = count};
	if (listen_first(&t) < 0)
		return fail("listen");
	t.times = calloc(count, sizeof *t.times);
	int ret = run(&t, rtt_client, rtt_server), e = errno;
	close(t.listener);
	errno = e;
	if (ret < 0) {
		fail("rtt");
	} else {
		printf("ok");
		for (int i = 0; i < count; i++)
			printf("\t%lld", (long long)t.times[i]);
		printf("\n");
	}
	free(t.times);
}
