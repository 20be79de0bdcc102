/* An echo server on TCP port 5000 of a stack of libvdestack.
 * usage: echo LOCATOR PATH-OF-IP IPV4/LENGTH IPV6/LENGTH */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <vdestack.h>

static void check(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

int main(int argc, char *argv[])
{
	char commands[1024], buf[65536];
	struct sockaddr_in6 addr;
	struct vdestack *stack;
	int listener;

	if (argc != 5)
		return 2;
	stack = vde_addstack(argv[1], NULL);
	check(stack != NULL, "vde_addstack");
	snprintf(commands, sizeof commands,
		"%s link set vde0 up; %s addr add %s dev vde0; %s addr add %s dev vde0 nodad",
		argv[2], argv[2], argv[3], argv[2], argv[4]);
	check(vde_stackcmd(stack, commands) == 0, "vde_stackcmd");

	listener = vde_msocket(stack, AF_INET6, SOCK_STREAM, 0);
	check(listener >= 0, "vde_msocket");
	memset(&addr, 0, sizeof addr);
	addr.sin6_family = AF_INET6;
	addr.sin6_port = htons(5000);
	check(bind(listener, (struct sockaddr *) &addr, sizeof addr) == 0, "bind");
	check(listen(listener, 5) == 0, "listen");
	puts("listening");
	fflush(stdout);

	for (;;) {
		ssize_t n;
		int conn = accept(listener, NULL, NULL);

		check(conn >= 0, "accept");
		while ((n = read(conn, buf, sizeof buf)) > 0) {
			ssize_t done = 0, m;

			while (done < n && (m = write(conn, buf + done, n - done)) > 0)
				done += m;
		}
		close(conn);
	}
}
