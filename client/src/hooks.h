/*
 * hooks.h: what a client tells its program: lines for a log, and counters. All of it is the client's; there
 * is nothing global.
 *
 * Thread:   any.
 * Blocking: as the program's log function, which is called without any lock of ours held.
 */
#ifndef QMQ_SRC_HOOKS_H
#define QMQ_SRC_HOOKS_H

#include <stdatomic.h>

#include <qbase/err.h>
#include <qmq/qmq.h>

/* X(name, meaning): they only grow. */
#define HOOKS_COUNTERS(X)                                                                          \
    X(sent, "messages that producers took")                                                        \
    X(stored, "messages that are stored; with those that failed, all that have an outcome")        \
    X(handed_over, "one-way messages that a broker has got: their outcome")                        \
    X(not_taken, "one-way messages that were dropped since a queue was full")                      \
    X(failed, "messages that are not stored, or perhaps")                                          \
    X(duplicates, "stored messages that a repeated call was recognised for")                       \
    X(maybe_duplicates, "messages that may be stored twice")                                       \
    X(requests, "calls that published")                                                            \
    X(retried, "… of those, made again")                                                           \
    X(pulls, "calls that asked for messages")                                                      \
    X(pulled, "messages that came")                                                                \
    X(acked, "messages acknowledged")                                                              \
    X(nacked, "messages said to have failed")                                                      \
    X(connects, "connections made")                                                                \
    X(reconnects, "… of those, to where one was lost")                                             \
    X(lost, "connections lost")

#define HOOKS_ENUM(name, meaning) COUNT_##name,
enum counter {
    HOOKS_COUNTERS(HOOKS_ENUM) COUNTERS
};

struct hooks {
    qmq_log_fn *log; /* may be NULL */
    void *context;
    atomic_uint_fast64_t counters[COUNTERS];
};

static inline void
hooks_count(struct hooks *hooks, enum counter counter, uint64_t by)
{
    /* Nothing is ordered by a counter. */
    atomic_fetch_add_explicit(&hooks->counters[counter], by, memory_order_relaxed);
}

/* Without a lock. */
__attribute__((format(printf, 3, 4))) void hooks_log(
    const struct hooks *hooks, enum qmq_level level, const char *format, ...);
/* The same, with a fault behind it. */
void hooks_log_fault(
    const struct hooks *hooks, enum qmq_level level, const char *what, const struct q_fault *fault);

#endif /* QMQ_SRC_HOOKS_H */
