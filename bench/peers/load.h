/*
 * load.h: the same load for every message queue that is measured beside ours.
 *
 * load.c has the workloads, the pace, the counting and the output; a queue is one C file with eight
 * functions, linked with it to a program. `bench/versus` starts servers and runs the programs by turns.
 *
 * One thread. A producer and each consumer are processes of their own. Any failure ends the process
 * with a line on stderr: a run that went wrong has no figure.
 */
#ifndef BENCH_PEERS_LOAD_H
#define BENCH_PEERS_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <qbase/err.h>

struct load {
    uint64_t port;
    uint64_t pid; /* of the server: its CPU and memory */
    uint64_t messages;
    uint64_t size;   /* of a message */
    uint64_t window; /* messages without an acknowledgement, at most */
    uint64_t batch;  /* messages between two flushes of the producer */
    uint64_t fetch;  /* messages that a consumer asks for at once */
    uint64_t subjects;
    uint64_t groups;
    uint64_t rate;        /* messages a second; 0: as fast as the window allows */
    uint64_t duration_ns; /* of producing */
    bool sync;     /* where the producer may choose: acknowledged when it survives power loss */
    bool ack_each; /* where there is a choice: one acknowledgement for each message */
    bool consume;  /* what was produced */
    bool live;     /* consumers wait for messages as they come */
};

struct load_peer {
    /* Subjects and groups, made durable. */
    void (*create)(const struct load *load);

    void *(*producer)(const struct load *load);
    /* Take one message; it may stay in a buffer. */
    void (*send)(void *producer, uint64_t subject, const void *message, size_t size);
    /* Send what is in buffers, then take in acknowledgements: load_acked(). Waits until there is one, or
     * until `wait_ns` is over; 0: not at all. */
    void (*pump)(void *producer, uint64_t wait_ns);

    void *(*consumer)(const struct load *load, uint64_t group);
    /* Wait for messages, load_message() each of them, acknowledge them. Returns how many. */
    uint64_t (*receive)(void *consumer, unsigned wait_ms);
    /* Returns when the server has taken in every acknowledgement. */
    void (*finish)(void *consumer);
    /* Messages of a group that are not acknowledged; UINT64_MAX: the server can't say. */
    uint64_t (*left)(const struct load *load, uint64_t group);
};

/* One in each program. */
extern const struct load_peer load_peer;

void load_acked(uint64_t count);
void load_message(const void *data, size_t size);
Q_NORETURN void load_die(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* "bench.7" */
const char *load_subject(char out[32], uint64_t subject);

#endif /* BENCH_PEERS_LOAD_H */
