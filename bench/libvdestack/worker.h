/*
 * The worker of the benchmark for the C library libvdestack: it answers the
 * requests that are described in ../internal/worker/worker.go, and sends and
 * receives as the worker in Go does, with blocking sockets and threads.
 *
 * cc -O2 -pthread *.c -lvdestack
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <pthread.h>
#include <stdint.h>
#include <vdestack.h>

#define SPARE 10   /* seconds that a transfer may take beyond its time */
#define PORT 5001  /* where the first half of a pair listens */
#define MAX_THREADS 64

/* The pair of stacks; both are the same if the network is loopback, and one of
   them is missing if another worker has it. */
extern struct vdestack *first, *second;
extern struct in_addr address;

int64_t now(void);
void fail(const char *what); /* answers with an error, and the reason in errno */
int loopback_up(struct vdestack *s);

/* The requests. */
void answer_pair(int mtu, char *a, char *b);
void answer_half(int side, int mtu, char *vnl);
void delete_pair(void);
void answer_stream(int streams, int size, int ms);
void answer_receive(int streams, int size, int ms);
void answer_send(int streams, int size, int ms);
void answer_rtt(int size, int count);
void answer_open(int count, int pause, const char *vnl);
void answer_sockets(int count, int threads);
void answer_dials(int count);
void answer_crowd(int count, const char *vnl);
void answer_disband(void);
