/*
 * qmq/testing.h: a whole message queue inside a test.
 *
 *     struct qmq_testing *queue;
 *     if (qmq_testing_start(NULL, &queue) != QMQ_OK) fail(qmq_testing_last_error().message);
 *     struct qmq_client_options options = { .meta = qmq_testing_meta(queue) };
 *     ...
 *     qmq_testing_stop(queue);
 *
 * Meta and a broker, the ones that `qmqd` runs, on threads of this process: no port is opened, no
 * program is started, and any number of them can stand side by side. Messages are kept in memory (in
 * a directory of /dev/shm; of $TMPDIR where that is missing or small), and are gone with it.
 *
 * Thread:   any; calls for one queue not at the same time.
 * Blocking: all of it, at most some seconds.
 * Memory:   about 10 MB, and the messages. Free clients of it before it is stopped.
 * Fork:     a child must not use what its parent started. Start after the fork.
 */
#ifndef QMQ_TESTING_H
#define QMQ_TESTING_H

#include <qmq/qmq.h>

#ifdef __cplusplus
extern "C" {
#endif

struct qmq_testing;

struct qmq_testing_options {
    /* Made when it is missing, and kept: a later start with it finds the messages. NULL: memory. */
    const char *directory;
    /* What the queue has to say goes to stderr. By default only what is wrong does. */
    bool verbose;
};

/* QMQ_OK: it takes calls. `options` may be NULL. */
QMQ_API int qmq_testing_start(
    const struct qmq_testing_options *options, struct qmq_testing **ret_testing);
/* The `meta` of qmq_client_options; lives as long as the queue. */
QMQ_API const char *qmq_testing_meta(const struct qmq_testing *testing);
/*
 * Stop the broker, and start it again on what it had stored. Clients see a connection that is lost
 * and comes back. QMQ_OK, or why it did not come back: then it can only be stopped.
 */
QMQ_API int qmq_testing_restart(struct qmq_testing *testing);
/* QMQ_OK, or what went wrong inside at any time since the start. NULL is fine. */
QMQ_API int qmq_testing_stop(struct qmq_testing *testing);

/* As qmq_last_error(), for the functions of this file. */
QMQ_API struct qmq_error qmq_testing_last_error(void);

#ifdef __cplusplus
}
#endif

#endif /* QMQ_TESTING_H */
