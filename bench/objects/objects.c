/* Makes what the kernel needs for many stacks on one network, and nothing else: for
   each a network namespace with its loopback up, and a veth pair between it and a port
   of one bridge, both ends up, with an IPv4 address. It answers two requests of the
   benchmark's workers, "crowd" and "disband". */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <arpa/inet.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <linux/veth.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BRIDGE = 10, FIRST = 1000, MOST = 1023 };

static int hub = -1, home, stacks[MOST], count, made;
static union {
	struct nlmsghdr h;
	char bytes[4096];
} m;

static int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void fail(const char *what)
{
	printf("error\t%s: %s\n", what, strerror(errno));
	exit(1);
}

static void begin(int type, int flags, const void *body, size_t size)
{
	memset(&m, 0, sizeof m);
	m.h.nlmsg_type = type;
	m.h.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
	m.h.nlmsg_len = NLMSG_LENGTH(size);
	memcpy(NLMSG_DATA(&m.h), body, size);
}

static struct rtattr *add(int type, const void *data, size_t size)
{
	struct rtattr *a = (void *)(m.bytes + NLMSG_ALIGN(m.h.nlmsg_len));
	a->rta_type = type;
	a->rta_len = RTA_LENGTH(size);
	if (size > 0)
		memcpy(RTA_DATA(a), data, size);
	m.h.nlmsg_len = NLMSG_ALIGN(m.h.nlmsg_len) + RTA_ALIGN(a->rta_len);
	return a;
}

static void add_u32(int type, uint32_t v) { add(type, &v, sizeof v); }

static void add_text(int type, const char *text) { add(type, text, strlen(text) + 1); }

static void end(struct rtattr *nest) { nest->rta_len = m.bytes + m.h.nlmsg_len - (char *)nest; }

static void request(int fd, const char *what)
{
	union {
		struct nlmsghdr h;
		char bytes[4096];
	} answer;
	if (send(fd, &m, m.h.nlmsg_len, 0) < 0 || recv(fd, &answer, sizeof answer, 0) < 0)
		fail(what);
	errno = -((struct nlmsgerr *)NLMSG_DATA(&answer.h))->error;
	if (answer.h.nlmsg_type != NLMSG_ERROR || errno != 0)
		fail(what);
}

static int netlink(void)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (fd < 0)
		fail("netlink");
	return fd;
}

static void make_hub(void)
{
	const struct ifinfomsg up = {.ifi_index = BRIDGE, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
	const char off = 0;
	struct rtattr *info, *data;
	int fd;
	if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
		fail("unshare");
	hub = netlink();
	home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	fd = open("/proc/sys/net/ipv6/conf/default/disable_ipv6", O_WRONLY | O_CLOEXEC);
	if (fd >= 0 && write(fd, "1", 1) < 0)
		fail("disable_ipv6");
	close(fd);
	begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &up, sizeof up);
	add_text(IFLA_IFNAME, "bridge0");
	add_u32(IFLA_MTU, 65521);
	info = add(IFLA_LINKINFO, NULL, 0);
	add_text(IFLA_INFO_KIND, "bridge");
	data = add(IFLA_INFO_DATA, NULL, 0);
	add(IFLA_BR_MCAST_SNOOPING, &off, sizeof off);
	end(data);
	end(info);
	request(hub, "bridge");
}

static void make_stack(int number)
{
	struct ifinfomsg port = {.ifi_index = FIRST + number, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
	struct ifinfomsg peer = {.ifi_index = FIRST};
	struct ifaddrmsg addr = {.ifa_family = AF_INET, .ifa_prefixlen = 16, .ifa_index = FIRST};
	struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_LOOPBACK};
	char name[IFNAMSIZ];
	struct rtattr *info, *data, *other;
	int fd, tcp, ns;
	uint32_t ip;

	if (unshare(CLONE_NEWNET) < 0)
		fail("unshare");
	fd = netlink();
	if ((tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0 || ioctl(tcp, SIOCSIFFLAGS, &lo) < 0)
		fail("loopback");
	if ((ns = ioctl(tcp, SIOCGSKNS)) < 0)
		fail("namespace");
	close(tcp);

	snprintf(name, sizeof name, "port%d", number);
	begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &port, sizeof port);
	add_text(IFLA_IFNAME, name);
	add_u32(IFLA_MTU, 65521);
	add_u32(IFLA_NUM_TX_QUEUES, 1);
	add_u32(IFLA_NUM_RX_QUEUES, 1);
	add_u32(IFLA_MASTER, BRIDGE);
	info = add(IFLA_LINKINFO, NULL, 0);
	add_text(IFLA_INFO_KIND, "veth");
	data = add(IFLA_INFO_DATA, NULL, 0);
	other = add(VETH_INFO_PEER, &peer, sizeof peer);
	add_text(IFLA_IFNAME, "vde0");
	add_u32(IFLA_MTU, 1500);
	add_u32(IFLA_NUM_TX_QUEUES, 1);
	add_u32(IFLA_NUM_RX_QUEUES, 1);
	add_u32(IFLA_NET_NS_FD, ns);
	end(other);
	end(data);
	end(info);
	request(hub, "veth");

	peer.ifi_flags = peer.ifi_change = IFF_UP;
	begin(RTM_NEWLINK, 0, &peer, sizeof peer);
	request(fd, "up");

	ip = htonl((10 << 24) + (78 << 16) + ((1 + number / 250) << 8) + 1 + number % 250);
	begin(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &addr, sizeof addr);
	add(IFA_LOCAL, &ip, sizeof ip);
	add(IFA_ADDRESS, &ip, sizeof ip);
	request(fd, "address");
	close(fd);
	stacks[count++] = ns;
}

int main(void)
{
	char line[4096];
	int n;
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	while (fgets(line, sizeof line, stdin) != NULL) {
		if (sscanf(line, "crowd\t%d\t1\t", &n) == 1 && n > 0 && count + n <= MOST) {
			int64_t start;
			if (hub < 0)
				make_hub();
			start = now();
			for (int i = 0; i < n; i++)
				make_stack(made++); /* the kernel may have the earlier ones still */
			if (setns(home, CLONE_NEWNET) < 0)
				fail("setns");
			printf("ok\t%" PRId64 "\n", now() - start);
		} else if (strcmp(line, "disband\n") == 0) {
			int64_t start = now();
			while (count > 0)
				close(stacks[--count]);
			printf("ok\t%" PRId64 "\t%" PRId64 "\n", now() - start, now() - start);
		} else
			puts("error\trequest is unknown, or has other arguments");
		fflush(stdout);
	}
	return 0;
}
