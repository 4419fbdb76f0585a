/*
 * fill.h: put messages into a store, as fast as it takes them, and end as kill -9 does.
 */
#ifndef BENCH_FILL_H
#define BENCH_FILL_H

#include <qlog/store.h>

struct fill {
    uint64_t bytes;    /* of bodies, in all */
    uint32_t subjects; /* in turn: subject-00000000 … */
    uint32_t first;    /* the number of the first */
    uint32_t apart;    /* each so many batches one is of the first subject; 0: in its turn */
    uint32_t size;     /* of a body */
    uint32_t count;    /* messages of a batch */
    uint32_t batches;  /* of a request; at most QLOG_REQUEST_BATCHES_MAX */
    bool durable;      /* each is acknowledged when it is flushed, not when it is written */
    bool groups;       /* a group on each thousandth subject */
};

enum {
    FILL_NAME = 24
};

/* The name of a subject; returns `out`. */
struct q_bytes fill_subject(uint32_t number, char out[FILL_NAME]);
/* Into a store of this thread's. */
Q_MUST_CHECK enum q_err fill_store(struct qlog_store *store, const struct fill *fill);
/* In a process of its own, which is killed when all is acknowledged. */
Q_MUST_CHECK enum q_err fill_and_kill(const char *directory, const struct fill *fill);

/* What an open took. */
struct opened {
    double ready_s;
    uint64_t anonymous; /* bytes of memory more than before */
    struct qlog_counters counters;
};

/* Open and leave open. */
Q_MUST_CHECK enum q_err fill_open(
    const char *directory, struct qlog_store **ret_store, struct opened *ret_opened);
/* Anonymous memory of this process. */
uint64_t fill_memory(void);
void fill_remove(const char *directory);

#endif /* BENCH_FILL_H */
