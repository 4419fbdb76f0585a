/*
 * qlog/log.h: an append-only log of a program's own bytes.
 *
 * A record that was acknowledged in mode `sync` survives power loss; in mode `async`, the end of the
 * process. Appends of one turn share a write and a flush. Reading back: qlog/cursor.h.
 *
 *     struct qlog *log;
 *     if (qlog_open("data", &(struct qlog_options){ .create = true }, &log) != Q_OK) …
 *     if (qlog_append(log, "hello", 5, NULL) != Q_OK) …
 *
 * Thread:   one: the thread that opened it, for every function.
 * Blocking: qlog_open(), qlog_append(), qlog_wait(), qlog_trim() and qlog_close(). The rest never.
 * Memory:   an append struct and its data are the log's from submit until `done` has been entered.
 * Failure:  after a failed write or flush everything answers Q_E_BROKEN and the log must be closed;
 *           the next open recovers what the disk has. q_fault_last() tells path, position, cause.
 * Format:   docs/format.md.
 */
#ifndef QLOG_LOG_H
#define QLOG_LOG_H

#include <qlog/options.h>
#include <qlog/store.h>

#ifdef __cplusplus
extern "C" {
#endif

struct qlog;
struct qlog_append;

/* Once, never from inside submit, in log order for each mode. */
typedef void qlog_append_fn(struct qlog_append *append, enum q_err err);

struct qlog_append {
    /* Set by the caller. */
    const void *data;
    size_t size;
    enum qlog_mode mode; /* DEFAULT: sync */
    qlog_append_fn *done;
    void *context;

    /* Set before `done(Q_OK)`: of the frame that holds the record; a cursor can start there. */
    qlog_position position;

    struct qlog_private private_;
};

/*
 * Open the log in `directory`, recovering it; create it when options->create is set.
 *
 * Q_OK, Q_NOT_FOUND, Q_E_LOCKED, Q_E_FOREIGN, Q_E_NOT_DIRECTORY, Q_E_PERMISSION, Q_E_NO_SPACE,
 * Q_E_CORRUPT, Q_E_VERSION, Q_E_IO, Q_E_NOMEM.
 */
Q_EXPORT Q_MUST_CHECK enum q_err qlog_open(
    const char *directory, const struct qlog_options *options, struct qlog **ret_log);
/* Finish everything, mark the stop clean, and free. */
Q_EXPORT enum q_err qlog_close(struct qlog *log);

/* Q_OK: `done` will be called. Q_TOO_BIG: does not fit into a segment. Q_NO_SUCH_MODE. */
Q_EXPORT Q_MUST_CHECK enum q_err qlog_submit(struct qlog *log, struct qlog_append *append);
/* One turn: what completed is finished, what was submitted becomes frames. Q_OK or what broke it. */
Q_EXPORT Q_MUST_CHECK enum q_err qlog_turn(struct qlog *log);
/* Hand frames to the kernel, and sleep until something completes, at most `timeout_ns`: all of it when
 * nothing is under way and nothing is due, so that a loop with nothing to do does not spin; 0 does not
 * sleep. A loop calls both, turn and wait, every time. */
Q_EXPORT Q_MUST_CHECK enum q_err qlog_wait(struct qlog *log, uint64_t timeout_ns);

/* Append one record and wait until it is flushed. `ret_position` may be NULL. */
Q_EXPORT Q_MUST_CHECK enum q_err qlog_append(
    struct qlog *log, const void *data, size_t size, qlog_position *ret_position);

/*
 * Drop the head: whole segments that lie below `before`. They are written again, so a log that is
 * trimmed as it grows needs no new space. Blocks for a write of the superblock when something goes.
 */
Q_EXPORT Q_MUST_CHECK enum q_err qlog_trim(struct qlog *log, qlog_position before);

/* Everything below is written, or flushed. */
Q_EXPORT qlog_position qlog_written(const struct qlog *log);
Q_EXPORT qlog_position qlog_durable(const struct qlog *log);

#ifdef __cplusplus
}
#endif

#endif /* QLOG_LOG_H */
