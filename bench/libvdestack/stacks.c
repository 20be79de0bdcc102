/* Stacks and sockets that come and go. */
#include "worker.h"
#include <arpa/inet.h>
#include <errno.h>
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
	return vde_addstack(*buf ? buf : NULL, NULL);
}

void answer_open(int count, int pause, const char *vnl)
{
	int64_t *times = calloc(2 * count, sizeof *times);
	for (int i = 0; i < count; i++) {
		if (i > 0)
			usleep(pause * 1000);
		int64_t start = now();
		struct vdestack *s = add(vnl, i);
		if (s == NULL) {
			fail(vnl);
			free(times);
			return;
		}
		int fd = vde_msocket(s, AF_INET, SOCK_STREAM, 0);
		times[i] = now() - start;
		if (fd < 0) {
			fail("socket");
			vde_delstack(s);
			free(times);
			return;
		}
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

/* A share is what a thread makes. */
struct share {
	struct vdestack *stack;
	int count, listener, error;
	struct sockaddr_in address;
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

void answer_sockets(int count, int threads)
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

static void *dial(void *arg)
{
	struct share *s = arg;
	for (int i = 0; i < s->count && s->error == 0; i++) {
		int fd = vde_msocket(s->stack, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd < 0 || connect(fd, (struct sockaddr *)&s->address, sizeof s->address) < 0)
			s->error = errno ? errno : EIO;
		if (fd >= 0)
			close(fd);
	}
	shutdown(s->listener, SHUT_RDWR); /* ends the other thread */
	return NULL;
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

void answer_dials(int count)
{
	pthread_t dialer, acceptor;
	struct share s = {.count = count, .address = {.sin_family = AF_INET}};
	socklen_t len = sizeof s.address;
	inet_aton("127.0.0.1", &s.address.sin_addr);
	if ((s.stack = vde_addstack(NULL, NULL)) == NULL)
		return fail("stack");
	s.listener = vde_msocket(s.stack, AF_INET, SOCK_STREAM, 0);
	if (loopback_up(s.stack) < 0 || s.listener < 0
	    || bind(s.listener, (struct sockaddr *)&s.address, len) < 0
	    || getsockname(s.listener, (struct sockaddr *)&s.address, &len) < 0
	    || listen(s.listener, SOMAXCONN) < 0) {
		fail("listen");
		vde_delstack(s.stack);
		return;
	}
	int64_t start = now();
	s.error = pthread_create(&acceptor, NULL, close_all, &s);
	if (s.error == 0) {
		int e = pthread_create(&dialer, NULL, dial, &s);
		if (e == 0)
			pthread_join(dialer, NULL);
		else
			shutdown(s.listener, SHUT_RDWR);
		pthread_join(acceptor, NULL);
		if (e)
			s.error = e;
	}
	int64_t took = now() - start;
	close(s.listener);
	vde_delstack(s.stack);
	if (s.error) {
		errno = s.error;
		return fail("dial");
	}
	printf("ok\t%lld\n", (long long)took);
}

/* The crowd. */
static struct vdestack **crowd;
static int crowded;

void answer_crowd(int count, const char *vnl)
{
	crowd = calloc(count, sizeof *crowd);
	int64_t start = now();
	for (crowded = 0; crowded < count; crowded++)
		if ((crowd[crowded] = add(vnl, crowded)) == NULL)
			return fail(vnl);
	printf("ok\t%lld\n", (long long)(now() - start));
}

void answer_disband(void)
{
	int64_t start = now();
	while (crowded > 0)
		vde_delstack(crowd[--crowded]);
	free(crowd);
	crowd = NULL;
	int64_t took = now() - start;
	printf("ok\t%lld\t%lld\n", (long long)took, (long long)took);
}
