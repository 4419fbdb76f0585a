/*
 * kill.h: what the two workloads of the kill loop share with the loop.
 *
 * A history is one directory that lives through several processes. In each life a child opens the
 * directory and works; it notes in the ledger, which is shared memory and survives it, what it is
 * about to submit and what was acknowledged. The parent kills it, opens the directory, and holds
 * what it finds against the ledger.
 */
#ifndef TESTS_CRASH_KILL_H
#define TESTS_CRASH_KILL_H

#include <stdio.h>

#include <qbase/assert.h>
#include <qbase/bytes.h>
#include <qlog/io.h>
#include <qlog/options.h>

#include "random.h"

struct verdict {
    uint64_t lost;    /* acknowledged, and not there */
    uint64_t phantom; /* there, and never submitted, or not as it was submitted */
    uint64_t failed;  /* a directory that could not be opened or verified, a child that gave up */
    /* How much was tried: a loop that tries nothing finds nothing. */
    uint64_t acknowledged;
    uint64_t found;
    uint64_t torn;
};

struct history {
    char directory[256];
    uint64_t seed;
    uint32_t life;
    bool plain; /* io backend */
    struct qlog_options options;
    void *ledger; /* the workload's own, shared */
};

struct workload {
    const char *name;
    size_t ledger_size;
    /* In the child. Never returns but by failing: work until killed, then sleep until killed. */
    void (*work)(struct history *history);
    /* In the parent: open, compare with the ledger, close, and prepare the ledger for the next life.
     * False: the directory did not open, or did not close. */
    bool (*check)(struct history *history, struct verdict *verdict);
    /* Whether nothing was ever acknowledged: the directory need not even be there. */
    bool (*is_blank)(const struct history *history);
};

extern const struct workload log_workload;
extern const struct workload store_workload;

/* The io of this history, made anew in each process. */
struct qlog_io *history_io(const struct history *history);

/* Print what is wrong, with the history, as one line. */
void complain(const struct history *history, const char *format, ...) Q_PRINTF(2, 3);
/* The same with this thread's last fault, and leave the child. */
_Noreturn void child_failed(const struct history *history, const char *what);
_Noreturn void sleep_until_killed(void);

/* Bytes that only this key gives: the first 8 are the key. `size` >= 8. */
void fill_bytes(uint8_t *out, size_t size, uint64_t key);
bool bytes_are(struct q_bytes bytes, size_t size, uint64_t key);

#endif /* TESTS_CRASH_KILL_H */
