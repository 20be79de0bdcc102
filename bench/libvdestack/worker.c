/*
 * The worker of the benchmark for the C library libvdestack: it answers the
 * requests that are described in ../internal/worker/worker.go, and sends and
 * receives as the worker in Go does, with blocking sockets and threads.
 *
 * cc -O2 -pthread worker.c -lvdestack
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#include <vdestack.h>

#define SPARE 10   /* seconds that a transfer may take beyond its time */
#define WARM_UP 50 /* round trips that are not counted */
#define MAX_THREADS 64

/* The pair of stacks; both are the same if the network is loopback. */
static struct vdestack *first, *second;
static in_addr_t address;

static int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* fail answers with an error, and the reason in errno. */
static void fail(const char *what)
{
	printf("error\t%s: %s\n", what, strerror(errno));
}

/* loopback_up does without a command: vde_stackcmd never returns in a stack
   without a network. */
static int loopback_up(struct vdestack *s)
{
	struct ifreq r = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int fd = vde_msocket(s, AF_INET, SOCK_DGRAM, 0);
	if (fd < 0)
		return -1;
	int ret = ioctl(fd, SIOCSIFFLAGS, &r);
	close(fd);
	return ret;
}

static struct vdestack *add_stack(char *vnl, const char *ip)
{
	char commands[200];
	struct vdestack *s = vde_addstack(vnl, NULL);
	if (s == NULL)
		return NULL;
	snprintf(commands, sizeof commands,
		"/sbin/ip link set lo up; /sbin/ip addr add %s/24 dev vde0; /sbin/ip link set vde0 up", ip);
	if (vde_stackcmd(s, commands) != 0) {
		vde_delstack(s);
		errno = EIO;
		return NULL;
	}
	return s;
}

static void delete_pair(void)
{
	if (second != NULL && second != first)
		vde_delstack(second);
	if (first != NULL)
		vde_delstack(first);
	first = second = NULL;
}

static void answer_pair(char *a, char *b)
{
	delete_pair();
	if (*a == 0 && *b == 0) {
		first = second = vde_addstack(NULL, NULL);
		if (first == NULL || loopback_up(first) < 0)
			return fail("loopback");
		address = inet_addr("127.0.0.1");
	} else {
		if ((first = add_stack(a, "10.77.0.1")) == NULL)
			return fail(a);
		if ((second = add_stack(b, "10.77.0.2")) == NULL)
			return fail(b);
		address = inet_addr("10.77.0.1");
	}
	puts("ok");
}

/* connect_pair makes one TCP connection. Its calls have a time limit. */
static int connect_pair(int ms, int *client, int *server)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = address};
	socklen_t len = sizeof sin;
	struct timeval limit = {.tv_sec = SPARE + ms / 1000};
	int one = 1;
	int ln = vde_msocket(first, AF_INET, SOCK_STREAM, 0);
	*client = vde_msocket(second, AF_INET, SOCK_STREAM, 0);
	*server = -1;
	if (ln >= 0 && *client >= 0
	    && bind(ln, (struct sockaddr *)&sin, sizeof sin) == 0
	    && getsockname(ln, (struct sockaddr *)&sin, &len) == 0
	    && listen(ln, 1) == 0
	    && setsockopt(ln, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0
	    && setsockopt(*client, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0
	    && setsockopt(*client, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0
	    && setsockopt(*client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0
	    && connect(*client, (struct sockaddr *)&sin, sizeof sin) == 0
	    && (*server = accept(ln, NULL, NULL)) >= 0
	    && setsockopt(*server, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0
	    && setsockopt(*server, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0
	    && setsockopt(*server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0) {
		close(ln);
		return 0;
	}
	int e = errno;
	if (ln >= 0)
		close(ln);
	if (*client >= 0)
		close(*client);
	if (*server >= 0)
		close(*server);
	errno = e;
	return -1;
}

/* A transfer is what the threads of a request share. The main thread only
   waits for them: errno is not its own, the library's helper writes to it. */
struct transfer {
	int client, server;
	int size, count;
	int64_t end, received;
	int64_t *times;
	int sent, got; /* errno of each side */
};

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

static void *stream_send(void *arg)
{
	struct transfer *t = arg;
	char *buf = calloc(1, t->size);
	while (now() < t->end)
		if (full(send_part, t->client, buf, t->size) < 0) {
			t->sent = errno;
			break;
		}
	shutdown(t->client, SHUT_WR);
	free(buf);
	return NULL;
}

static void *stream_receive(void *arg)
{
	struct transfer *t = arg;
	char *buf = malloc(t->size);
	ssize_t n;
	while ((n = read(t->server, buf, t->size)) > 0)
		t->received += n;
	if (n < 0) {
		t->got = errno;
		shutdown(t->server, SHUT_RDWR);
	}
	t->end = now();
	free(buf);
	return NULL;
}

static void *rtt_client(void *arg)
{
	struct transfer *t = arg;
	char *buf = calloc(1, t->size);
	for (int i = 0; i < WARM_UP + t->count; i++) {
		int64_t start = now();
		if (full(send_part, t->client, buf, t->size) < 0
		    || full(read, t->client, buf, t->size) < 0) {
			t->sent = errno;
			break;
		}
		if (i >= WARM_UP)
			t->times[i - WARM_UP] = now() - start;
	}
	shutdown(t->client, SHUT_RDWR);
	free(buf);
	return NULL;
}

static void *rtt_server(void *arg)
{
	struct transfer *t = arg;
	char *buf = malloc(t->size);
	while (full(read, t->server, buf, t->size) == 0
	       && full(send_part, t->server, buf, t->size) == 0)
		;
	free(buf);
	return NULL;
}

/* run_threads runs both sides of a transfer; its error is in errno. */
static int run_threads(struct transfer *t, void *(*client)(void *), void *(*server)(void *))
{
	pthread_t c, s;
	int e = pthread_create(&s, NULL, server, t);
	if (e == 0) {
		if ((e = pthread_create(&c, NULL, client, t)) != 0)
			shutdown(t->server, SHUT_RDWR);
		else
			pthread_join(c, NULL);
		pthread_join(s, NULL);
	}
	close(t->client);
	close(t->server);
	if (e == 0)
		e = t->sent ? t->sent : t->got;
	errno = e;
	return e ? -1 : 0;
}

static void answer_stream(int size, int ms)
{
	struct transfer t = {.size = size};
	if (connect_pair(ms, &t.client, &t.server) < 0)
		return fail("connect");
	/* The receiver overwrites the end, after the sender has reached it. */
	int64_t start = now();
	t.end = start + ms * INT64_C(1000000);
	if (run_threads(&t, stream_send, stream_receive) < 0)
		return fail("stream");
	printf("ok\t%lld\t%lld\n", (long long)t.received, (long long)(t.end - start));
}

static void answer_rtt(int size, int count)
{
	struct transfer t = {.size = size, .count = count};
	if (connect_pair(0, &t.client, &t.server) < 0)
		return fail("connect");
	t.times = calloc(count, sizeof *t.times);
	if (run_threads(&t, rtt_client, rtt_server) < 0) {
		fail("rtt");
	} else {
		printf("ok");
		for (int i = 0; i < count; i++)
			printf("\t%lld", (long long)t.times[i]);
		printf("\n");
	}
	free(t.times);
}

static void answer_open(int count, const char *vnl)
{
	int64_t *times = calloc(2 * count, sizeof *times);
	const char *place = strstr(vnl, "%d");
	for (int i = 0; i <= count; i++) { /* the first is not counted */
		char buf[4096];
		if (place != NULL)
			snprintf(buf, sizeof buf, "%.*s%d%s", (int)(place - vnl), vnl, i, place + 2);
		else
			snprintf(buf, sizeof buf, "%s", vnl);
		int64_t start = now();
		struct vdestack *s = vde_addstack(*buf ? buf : NULL, NULL);
		if (s == NULL) {
			fail(buf);
			free(times);
			return;
		}
		int fd = vde_msocket(s, AF_INET, SOCK_STREAM, 0);
		int64_t opened = now();
		if (fd < 0) {
			fail("socket");
			vde_delstack(s);
			free(times);
			return;
		}
		close(fd);
		vde_delstack(s);
		if (i > 0) {
			times[i - 1] = opened - start;
			times[count + i - 1] = now() - opened;
		}
	}
	printf("ok");
	for (int i = 0; i < 2 * count; i++)
		printf("\t%lld", (long long)times[i]);
	printf("\n");
	free(times);
}

struct share {
	struct vdestack *stack;
	int count, error;
};

static void *make_sockets(void *arg)
{
	struct share *s = arg;
	for (int i = 0; i < s->count; i++) {
		int fd = vde_msocket(s->stack, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd < 0) {
			s->error = errno ? errno : EIO;
			break;
		}
		close(fd);
	}
	return NULL;
}

static void answer_sockets(int count, int threads)
{
	pthread_t id[MAX_THREADS];
	struct share shares[MAX_THREADS];
	int started, error = 0;
	if (threads > MAX_THREADS) {
		errno = EINVAL;
		return fail("too many threads");
	}
	struct vdestack *s = vde_addstack(NULL, NULL);
	if (s == NULL)
		return fail("stack");
	int64_t start = now();
	for (started = 0; started < threads && error == 0; started++) {
		shares[started] = (struct share){.stack = s, .count = count / threads + (started < count % threads)};
		error = pthread_create(&id[started], NULL, make_sockets, &shares[started]);
	}
	if (error)
		started--;
	for (int i = 0; i < started; i++) {
		pthread_join(id[i], NULL);
		if (shares[i].error)
			error = shares[i].error;
	}
	int64_t took = now() - start;
	vde_delstack(s);
	if (error) {
		errno = error;
		return fail("socket");
	}
	printf("ok\t%lld\n", (long long)took);
}

int main(void)
{
	char line[8192];
	while (fgets(line, sizeof line, stdin) != NULL) {
		line[strcspn(line, "\n")] = 0;
		char *rest = line;
		char *name = strsep(&rest, "\t"), *a = strsep(&rest, "\t"), *b = strsep(&rest, "\t");
		int n = a ? atoi(a) : 0, m = b ? atoi(b) : 0;
		if (a == NULL || b == NULL || rest != NULL)
			puts("error\trequest has not 2 arguments");
		else if (strcmp(name, "pair") == 0)
			answer_pair(a, b);
		else if (strcmp(name, "open") == 0 && n > 0)
			answer_open(n, b);
		else if (strcmp(name, "sockets") == 0 && n > 0 && m > 0)
			answer_sockets(n, m);
		else if (strcmp(name, "stream") == 0 && first != NULL && n > 0 && m > 0)
			answer_stream(n, m);
		else if (strcmp(name, "rtt") == 0 && first != NULL && n > 0 && m > 0)
			answer_rtt(n, m);
		else
			puts("error\trequest is unknown, has bad numbers, or comes before pair");
		fflush(stdout);
	}
	delete_pair();
	return 0;
}
