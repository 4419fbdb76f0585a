/*
 * look/check.h: read one log to its end and check every frame, by several threads.
 *
 * A log is cut into ranges of whole segments; each thread reads one after the other, with its own
 * way to the kernel. What they found is told on the caller's thread in the order of the log, so it
 * is the same with any number of threads. The last two segments are one range: where the log ends,
 * and what is a torn tail, is decided as recovery does. Where two ranges meet, the chain of frames
 * is checked by what the later segment's header says. Index files are held against their segments
 * while those are read.
 *
 * Thread: one calls; callbacks run on it. Blocking: until the log is read. Memory: a window for each
 * thread, and what was found in the ranges that are ahead of the one that is told next, at most two
 * for each thread.
 */
#ifndef QL_LOOK_CHECK_H
#define QL_LOOK_CHECK_H

#include <qlog/cursor.h>

#include "look/audit.h"
#include "segment/home.h"

enum {
    QL_CHECK_JOBS_MAX = 64
};

struct ql_check {
    /* Set by the caller. */
    struct ql_home *home;
    unsigned log;
    bool live;     /* another process writes: stop at the durable mark */
    bool deep;     /* every payload hash; every record is decoded */
    unsigned jobs; /* threads; 0: 1 */
    void *context;
    /* Each may be NULL. */
    void (*on_damage)(void *context, const struct qlog_damage *damage);
    /* Of each record that ql_digest_of() knows. Anything but Q_OK ends the check with it. */
    enum q_err (*on_digest)(void *context, const struct ql_digest *digest);
    /* Of an index file, by its segment's position; NULL: index files are not looked at. */
    void (*on_index)(void *context, uint64_t position, const char *text);
    /* About ten times a second. */
    void (*on_progress)(void *context, uint64_t bytes, uint64_t total);

    /* Set by ql_check_run(). */
    struct qlog_log_state state;
};

/* Q_OK, also with damage; Q_E_VERSION, Q_E_IO, Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_check_run(struct ql_check *check);

#endif /* QL_LOOK_CHECK_H */
