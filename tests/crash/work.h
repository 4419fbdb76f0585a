/*
 * work.h: workloads, what they were promised, and how a disk is held against it.
 *
 * A workload runs once on a simulated disk and leaves a history: each thing that was asked for, and
 * the moments (simdisk_now) at which it was promised. For a crash at some moment, the history is cut
 * there: what a client could know. The check recovers, compares, and goes on to use the store, so
 * that its own disk and history can be cut and crashed again.
 */
#ifndef TESTS_CRASH_WORK_H
#define TESTS_CRASH_WORK_H

#include <qbase/err.h>

#include "simdisk.h"

enum verdict_kind {
    VERDICT_LOST,    /* acknowledged, and gone */
    VERDICT_PHANTOM, /* there, and never asked for, or different, or in another place */
    VERDICT_FAILED,  /* recovery failed, or said what is not true */
    VERDICT_HUNG,    /* something is never answered */
    VERDICT_KINDS
};

struct verdict {
    uint64_t counts[VERDICT_KINDS];
    char text[1024]; /* of the first */
};

void verdict_add(struct verdict *verdict, enum verdict_kind kind, const char *format, ...)
    Q_PRINTF(3, 4);
/* The same, unless an operation was made to fail: then errors are what is wanted. */
#define verdict_add_error(verdict, disk, ...)                                                      \
    do {                                                                                           \
        if (!simdisk_has_failed(disk)) verdict_add((verdict), VERDICT_FAILED, __VA_ARGS__);        \
    } while (0)
bool verdict_is_good(const struct verdict *verdict);

/* One thing that was asked for. All fields are moments; MEDIA_NEVER: not yet. */
struct promise {
    uint64_t submitted;
    uint64_t answered; /* from here on it survives the end of the process */
    uint64_t durable;  /* from here on it survives power loss */
    uint64_t voided;   /* power was lost before it was durable */
    uint64_t settled;  /* a recovery found it: whoever looks has seen it, so it stays */
    uint64_t dropped;  /* a recovery did not find it: it must not come back */
};

struct promise promise_new(uint64_t now);
/* Somebody asked for it, and it may be there. */
bool promise_is_known(const struct promise *promise, uint64_t at);
/* It must be there. */
bool promise_holds(const struct promise *promise);
/* What is left of it after a crash at `at`, as of moment 0 of a new disk. */
struct promise promise_cut(const struct promise *promise, uint64_t at, bool kill);
/* The power goes. */
void promise_void(struct promise *promise, uint64_t now);
/* A recovery has looked. */
void promise_settle(struct promise *promise, uint64_t now, bool found);

struct work_kind;

struct history {
    const struct work_kind *kind;
};

struct work_kind {
    struct history *(*run)(
        const void *plan, uint64_t seed, struct simdisk *disk, struct verdict *verdict);
    struct history *(*cut)(const struct history *history, uint64_t at, bool kill);
    void (*check)(
        struct history *history, uint64_t seed, struct simdisk *disk, struct verdict *verdict);
    void (*free)(struct history *history);
};

struct work {
    const char *name;
    const struct work_kind *kind;
    const void *plan;
};

/* Name NULL: behind the last. */
struct work log_work(unsigned number);
struct work store_work(unsigned number);
struct work delay_work(unsigned number);

#endif /* TESTS_CRASH_WORK_H */
