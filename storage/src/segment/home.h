/*
 * segment/home.h: a directory of logs: lock, superblock, generation, and the logs themselves.
 *
 * Opening to write:
 *
 *   1. the directory is made, or checked to be ours; LOCK is taken
 *   2. the newest good superblock copy is read; after an unclean stop the generation is raised
 *   3. the caller recovers each log by ql_home_recover(), in the order it needs
 *   4. ql_home_start(): what recovery decided is written to the superblock, with the generation and
 *      "not clean", and flushed before anything else is written; logs can be appended to
 *
 * While running, the superblock follows the durable marks: within 100 ms of the end of a burst, and
 * once a second under load. At an orderly stop it says "clean".
 *
 * Thread:   one, the owner. Memory: one block. Blocking: open, recover, start, close.
 */
#ifndef QL_SEGMENT_HOME_H
#define QL_SEGMENT_HOME_H

#include "segment/log.h"
#include "segment/recover.h"

/* A head that is being dropped: the superblock says so twice before a file goes. */
struct ql_home_trim {
    uint64_t before[QL_LOGS_MAX];
    /* On the owner's thread, from ql_home_reap() or ql_home_drain(). */
    void (*done)(struct ql_home_trim *trim, enum q_err err);

    unsigned writes; /* private: of the superblock, since it has the new positions */
};

struct ql_home {
    struct ql_env env;
    bool io_owned;
    char io_note[128]; /* why the chosen way to the kernel, when it is not the first choice */
    int lock_file;
    int super_file;
    bool created;
    bool was_clean;   /* the last stop */
    bool super_found; /* at least one good copy */
    bool started;
    uint64_t generation_found; /* in the superblock, before it was raised */
    struct ql_super super;
    struct ql_log logs[QL_LOGS_MAX];
    unsigned log_count;

    struct ql_transfer super_write;
    struct ql_buffer *super_buffer;
    bool super_busy;
    bool super_news; /* something other than marks has changed in it */
    uint64_t super_written_ns;
    struct ql_home_trim *trim; /* NULL: none is under way */
};

/* `names` become the logs of a new directory; an existing one must have the same. */
Q_MUST_CHECK enum q_err ql_home_open(
    const char *directory,
    const struct qlog_options *options,
    const char *const *names,
    unsigned name_count,
    struct ql_home **ret_home);
/* For tools: whatever logs the directory has; no lock, nothing is written. */
Q_MUST_CHECK enum q_err ql_home_open_to_read(
    const char *directory, struct qlog_io *io, struct ql_home **ret_home);

/* Whether another process has the directory open to write: it holds the lock. */
bool ql_home_is_live(struct ql_env *env);
/* Where a log begins by the superblock as it stands on the disk now; what was known when it can't be
 * read. */
uint64_t ql_home_first_now(struct ql_home *home, unsigned log);

/* Fill in `recover` for a log: env, segments, marks. Its callbacks are the caller's. */
void ql_home_recover_init(struct ql_home *home, unsigned log, struct ql_recover *ret_recover);
/* Run it, tell the observer, and set the log's marks. */
Q_MUST_CHECK enum q_err ql_home_recover(
    struct ql_home *home, unsigned log, struct ql_recover *recover);
Q_MUST_CHECK enum q_err ql_home_start(struct ql_home *home);

/* The parts of a turn: before the callbacks, and after them. */
Q_MUST_CHECK enum q_err ql_home_reap(struct ql_home *home, uint64_t now_ns);
void ql_home_write(struct ql_home *home, uint64_t now_ns);
/*
 * Drop whole segments below a position of each log: what is pinned, and the active segment, stay.
 * One at a time. `trim` is home's until `done`.
 */
void ql_home_trim_start(struct ql_home *home, struct ql_home_trim *trim);
/* Start one and wait for it. */
Q_MUST_CHECK enum q_err ql_home_trim(struct ql_home *home, const uint64_t *before);
/* When the next turn is due though nothing completes. */
uint64_t ql_home_deadline_ns(const struct ql_home *home);
/* Everything queued is written and flushed, or the logs broke. Runs callbacks. */
Q_MUST_CHECK enum q_err ql_home_drain(struct ql_home *home);

/* Drains, marks clean, frees. The failure that made the stop unclean, if any. */
enum q_err ql_home_close(struct ql_home *home);

#endif /* QL_SEGMENT_HOME_H */
