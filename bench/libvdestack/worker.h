/*
 * The worker of the benchmark for the C library libvdestack. It answers the
 * requests described in ../internal/worker/worker.go. Like the worker in Go it
 * uses blocking sockets and threads.
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

/* The pair of stacks. On loopback both are the same; of a half pair, the other
   one is in another worker. */
extern struct vdestack *first, *second;
extern struct in_addr address;

int64_t now(void);
/* fail answers with an error, and errno as its reason, and ends the worker. */
_Noreturn void fail(const char *what);
void loopback_up(struct vdestack *s);
/* run runs a function in threads, each with an element of an array. */
void run(void *(*f)(void *), int threads, void *array, int size);

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
void answer_gather(int count, const char *vnl);
void answer_disband(void);
