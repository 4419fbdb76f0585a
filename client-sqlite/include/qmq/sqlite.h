/*
 * qmq/sqlite.h: which messages were handled, kept in an SQLite database.
 *
 *     struct qmq_once *once;
 *     if (qmq_sqlite_once_open("orders.db", NULL, &once) != QMQ_OK)
 *         fprintf(stderr, "%s\n", qmq_sqlite_last_error().message);
 *     struct qmq_push_options options = { .once = once, ... };
 *
 * It survives the process, and several processes may share it. In the program's own database a handler
 * can do more: what it writes and that the message was handled are committed together, by
 * qmq_sqlite_once_done() in its transaction. Then both hold or neither does, whatever happens.
 *
 * Thread:   any, also at the same time; calls on one database wait for each other.
 * Blocking: all of it, for the disk, and up to `busy_ms` for writers of the same database.
 * Memory:   some KiB, and SQLite's cache for one connection.
 * Failure:  functions return QMQ_OK or a code; qmq_sqlite_last_error() tells more.
 * Fork:     open it after the fork.
 */
#ifndef QMQ_SQLITE_H
#define QMQ_SQLITE_H

#include <qmq/qmq.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sqlite3;

struct qmq_sqlite_once_options {
    const char *table; /* a letter, then letters, digits, '_'; up to 48. NULL: "qmq_once" */
    uint64_t keep_ms;  /* what was handled so long ago is forgotten. 0: 7 days */
    /* What began so long ago and did not end may begin again: its process is taken for dead. Longer than
     * any handler takes. 0: 60,000 */
    uint32_t lease_ms;
    uint32_t busy_ms; /* how long to wait for another writer. 0: 5,000 */
};

/*
 * Open or make the database and its table; its journal becomes WAL, with synchronous = NORMAL: what was
 * noted survives the end of the process; power loss may take the last of it back.
 * `options` may be NULL. Failures: codes of files, QMQ_INVALID, QMQ_E_CORRUPT.
 */
QMQ_API int qmq_sqlite_once_open(
    const char *path, const struct qmq_sqlite_once_options *options, struct qmq_once **ret_once);
/* After the consumers that use it. NULL is fine. */
QMQ_API void qmq_sqlite_once_close(struct qmq_once *once);

/*
 * In a handler that has begun with this key (qmq_delivery_key()), inside a transaction on the program's own connection to the same database: it was handled. Commit before the
 * handler returns.
 *
 * QMQ_OK      commit, and the message is handled, once.
 * QMQ_EXPIRED it was handled already, or its lease is over and another handler is at it: roll back.
 * Failures    roll back.
 */
QMQ_API int qmq_sqlite_once_done(
    struct qmq_once *once, struct sqlite3 *database, struct qmq_bytes key);

/* As qmq_last_error(), for the functions of this file and what the consumer calls of it. */
QMQ_API struct qmq_error qmq_sqlite_last_error(void);

#ifdef __cplusplus
}
#endif

#endif /* QMQ_SQLITE_H */
