/*
 * broker/store_thread.h: the thread that owns the store.
 *
 * Thread:   open, stop: the broker's starter. submit: any.
 * Blocking: open until the store is recovered, stop until it is closed.
 */
#ifndef BROKER_STORE_THREAD_H
#define BROKER_STORE_THREAD_H

#include <qlog/store.h>

struct broker_store;

struct broker_store_options {
    const char *directory;
    struct qlog_store_options store; /* the observer is set by this module */
    void *context;
    /* On the store thread: the store is broken. What is submitted from now on ends at the close. */
    void (*on_failed)(void *context, const struct q_fault *fault);
};

/* The answers of qlog_store_open(). */
Q_MUST_CHECK enum q_err broker_store_open(
    const struct broker_store_options *options, struct broker_store **ret_store);
/* Nobody submits any more. What is inside ends with Q_STOPPING. Q_OK, or why it was not clean. */
enum q_err broker_store_close(struct broker_store *store);
/* The answers of qlog_store_submit(). */
Q_MUST_CHECK enum q_err broker_store_submit(
    struct broker_store *store, struct qlog_request *request);
/* What IO_BACKEND said. */
const char *broker_store_io_text(const struct broker_store *store);

#endif /* BROKER_STORE_THREAD_H */
