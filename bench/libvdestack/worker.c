/* The main function, and the pair of stacks. */
#include "worker.h"
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct vdestack *first, *second;
struct in_addr address;

int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

void fail(const char *what)
{
	printf("error\t%s: %s\n", what, strerror(errno));
	exit(1);
}

/* loopback_up does not use a command: vde_stackcmd never returns in a stack
   without a network. */
void loopback_up(struct vdestack *s)
{
	struct ifreq r = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int fd = vde_msocket(s, AF_INET, SOCK_DGRAM, 0);
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &r) < 0)
		fail("loopback");
	close(fd);
}

void run(void *(*f)(void *), int threads, void *array, int size)
{
	pthread_t id[MAX_THREADS];
	errno = threads > MAX_THREADS ? EINVAL : 0;
	for (int i = 0; i < threads && errno == 0; i++)
		errno = pthread_create(&id[i], NULL, f, (char *)array + i * size);
	if (errno)
		fail("threads");
	for (int i = 0; i < threads; i++)
		pthread_join(id[i], NULL);
}

static struct vdestack *add_stack(char *vnl, int mtu, const char *ip)
{
	char commands[300];
	struct vdestack *s = vde_addstack(vnl, NULL);
	if (s == NULL)
		fail(vnl);
	snprintf(commands, sizeof commands,
		"/sbin/ip link set lo up; /sbin/ip addr add %s/24 dev vde0; /sbin/ip link set vde0 mtu %d up", ip, mtu);
	if (vde_stackcmd(s, commands) != 0) {
		errno = EIO;
		fail(vnl);
	}
	return s;
}

void delete_pair(void)
{
	if (second != NULL && second != first)
		vde_delstack(second);
	if (first != NULL)
		vde_delstack(first);
	first = second = NULL;
}

void answer_pair(int mtu, char *a, char *b)
{
	delete_pair();
	if (*a == 0 && *b == 0) {
		if ((first = second = vde_addstack(NULL, NULL)) == NULL)
			fail("loopback");
		loopback_up(first);
		inet_aton("127.0.0.1", &address);
	} else {
		first = add_stack(a, mtu, "10.77.0.1");
		second = add_stack(b, mtu, "10.77.0.2");
		inet_aton("10.77.0.1", &address);
	}
	puts("ok");
}

void answer_half(int side, int mtu, char *vnl)
{
	delete_pair();
	inet_aton("10.77.0.1", &address);
	if (side == 1)
		first = add_stack(vnl, mtu, "10.77.0.1");
	else
		second = add_stack(vnl, mtu, "10.77.0.2");
	puts("ok");
}

int main(void)
{
	char line[8192];
	while (fgets(line, sizeof line, stdin) != NULL) {
		line[strcspn(line, "\n")] = 0;
		char *rest = line, *name = strsep(&rest, "\t"), *text[3] = {0};
		int n[3] = {0}, fields = 0;
		for (; rest != NULL && fields < 3; fields++) {
			text[fields] = strsep(&rest, "\t");
			n[fields] = atoi(text[fields]);
		}
		if (strcmp(name, "pair") == 0 && fields == 3)
			answer_pair(n[0], text[1], text[2]);
		else if (strcmp(name, "half") == 0 && fields == 3)
			answer_half(n[0], n[1], text[2]);
		else if (strcmp(name, "stream") == 0 && fields == 3 && first && second)
			answer_stream(n[0], n[1], n[2]);
		else if (strcmp(name, "receive") == 0 && fields == 3 && first)
			answer_receive(n[0], n[1], n[2]);
		else if (strcmp(name, "send") == 0 && fields == 3 && second)
			answer_send(n[0], n[1], n[2]);
		else if (strcmp(name, "rtt") == 0 && fields == 2 && first && second)
			answer_rtt(n[0], n[1]);
		else if (strcmp(name, "open") == 0 && fields == 3)
			answer_open(n[0], n[1], text[2]);
		else if (strcmp(name, "sockets") == 0 && fields == 2)
			answer_sockets(n[0], n[1]);
		else if (strcmp(name, "dials") == 0 && fields == 1)
			answer_dials(n[0]);
		else if (strcmp(name, "gather") == 0 && fields == 2)
			answer_gather(n[0], text[1]);
		else if (strcmp(name, "disband") == 0 && fields == 0)
			answer_disband();
		else
			puts("error\trequest is unknown, has other arguments, or comes before pair");
		fflush(stdout);
	}
	delete_pair();
	return 0;
}
