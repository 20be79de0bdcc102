/* Stacks and sockets that come and go. */
#include "worker.h"
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* add makes a stack on the locator, with %d replaced by a number. */
static struct vdestack *add(const char *vnl, int number)
{
	char buf[4096];
	const char *place = strstr(vnl, "%d");
	if (place != NULL)
		snprintf(buf, sizeof buf, "%.*s%d%s", (int)(place - vnl), vnl, number, place + 2);
	else
		snprintf(buf, sizeof buf, "%s", vnl);
	struct vdestack *s = vde_addstack(*buf ? buf : NULL, NULL);
	if (s == NULL)
		fail(*buf ? buf : "stack");
	return s;
}

static int tcp_socket(struct vdestack *s)
{
	int fd = vde_msocket(s, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		fail("socket");
	return fd;
}

void answer_open(int count, int pause, const char *vnl)
{
	int64_t *times = calloc(2 * count, sizeof *times);
	for (int i = 0; i < count; i++) {
		if (i > 0)
			usleep(pause * 1000);
		int64_t start = now();
		struct vdestack *s = add(vnl, i);
		int fd = tcp_socket(s);
		times[i] = now() - start;
		close(fd);
		start = now();
		vde_delstack(s);
		times[count + i] = now() - start;
	}
	printf("ok");
	for (int i = 0; i < 2 * count; i++)
		printf("\t%lld", (long long)times[i]);
	printf("\n");
	free(times);
}

/* A share is the part of one thread. */
struct share {
	struct vdestack *stack;
	int count, listener;
	struct sockaddr_in address;
	void *(*part)(void *);
};

static void *make_sockets(void *arg)
{
	struct share *s = arg;
	for (int i = 0; i < s->count; i++)
		close(tcp_socket(s->stack));
	return NULL;
}

void answer_sockets(int count, int threads)
{
	struct share shares[MAX_THREADS] = {0};
	struct vdestack *s = add("", 0);
	for (int i = 0; i < threads && i < MAX_THREADS; i++)
		shares[i] = (struct share){.stack = s, .count = count / threads + (i < count % threads)};
	int64_t start = now();
	run(make_sockets, threads, shares, sizeof *shares);
	int64_t took = now() - start;
	vde_delstack(s);
	printf("ok\t%lld\n", (long long)took);
}

/* close_all closes each connection when its peer has. */
static void *close_all(void *arg)
{
	struct share *s = arg;
	char c;
	int fd;
	while ((fd = accept(s->listener, NULL, NULL)) >= 0) {
		while (read(fd, &c, 1) > 0)
			;
		close(fd);
	}
	return NULL;
}

/* dial is not on the main thread: its errno is not its own, the library's helper
   writes to it. */
static void *dial(void *arg)
{
	struct share *s = arg;
	for (int i = 0; i < s->count; i++) {
		int fd = tcp_socket(s->stack);
		if (connect(fd, (struct sockaddr *)&s->address, sizeof s->address) < 0)
			fail("dial");
		close(fd);
	}
	shutdown(s->listener, SHUT_RDWR); /* ends the other thread */
	return NULL;
}

static void *run_part(void *arg)
{
	struct share *s = arg;
	return s->part(s);
}

void answer_dials(int count)
{
	struct share s = {.stack = add("", 0), .address = {.sin_family = AF_INET}};
	socklen_t len = sizeof s.address;
	inet_aton("127.0.0.1", &s.address.sin_addr);
	loopback_up(s.stack);
	s.listener = tcp_socket(s.stack);
	if (bind(s.listener, (struct sockaddr *)&s.address, len) < 0
	    || getsockname(s.listener, (struct sockaddr *)&s.address, &len) < 0
	    || listen(s.listener, SOMAXCONN) < 0)
		fail("listen");
	s.count = count;
	struct share both[] = {s, s};
	both[0].part = close_all;
	both[1].part = dial;
	int64_t start = now();
	run(run_part, 2, both, sizeof s);
	int64_t took = now() - start;
	close(s.listener);
	vde_delstack(s.stack);
	printf("ok\t%lld\n", (long long)took);
}

/* Many stacks. */
static struct vdestack **gathered;
static int stacks;

void answer_gather(int count, const char *vnl)
{
	gathered = calloc(count, sizeof *gathered);
	int64_t start = now();
	for (stacks = 0; stacks < count; stacks++)
		gathered[stacks] = add(vnl, stacks);
	printf("ok\t%lld\n", (long long)(now() - start));
}

void answer_disband(void)
{
	int64_t start = now();
	while (stacks > 0)
		vde_delstack(gathered[--stacks]);
	free(gathered);
	gathered = NULL;
	int64_t took = now() - start;
	printf("ok\t%lld\t%lld\n", (long long)took, (long long)took);
}
