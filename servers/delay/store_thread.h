/*
 * delay/store_thread.h: the thread that owns the delay store.
 *
 * Thread:   open, stop, close: the role's starter. submit: any. counters: the store's callbacks.
 * Blocking: open until the store is recovered, stop until its loop has ended, close until it is
 *           closed.
 */
#ifndef DELAY_STORE_THREAD_H
#define DELAY_STORE_THREAD_H

#include <qlog/delay.h>

struct delay_store;

struct delay_store_options {
    const char *directory;
    struct qlog_delay_options store; /* the observer is set by this module */
    void *context;
    /* Before the loop runs. */
    void (*on_opened)(void *context, struct qlog_delay *store);
    /* On the store thread: the store is broken. */
    void (*on_failed)(void *context, const struct q_fault *fault);
};

/* The answers of qlog_delay_open(). */
Q_MUST_CHECK enum q_err delay_store_open(
    const struct delay_store_options *options, struct delay_store **ret_store);
/* Nothing is handed to the sender any more. */
void delay_store_stop(struct delay_store *store);
/* After _stop(): nobody submits any more, the sender has given back everything. */
enum q_err delay_store_close(struct delay_store *store);
Q_MUST_CHECK enum q_err delay_store_submit(
    struct delay_store *store, struct qlog_delay_request *request);
void delay_store_counters(struct delay_store *store, struct qlog_delay_counters *ret_counters);

#endif /* DELAY_STORE_THREAD_H */
