/*
 * qnet/caller.h: make calls to one server over one connection.
 *
 * The connection is made in the background and made again when it is lost. A call that was under
 * way when it was lost fails with Q_E_CONNECTION: its outcome is unknown. Nothing is ever sent a
 * second time by this module: retrying is the decision of who knows what the call means.
 *
 * Thread:   qnet_caller_submit(), _cancel(): any. `done` runs on a transport thread, those of
 *           different requests perhaps at the same time; or in qnet_caller_free().
 * Blocking: `done` and on_state must not block. qnet_caller_call() and qnet_caller_free() do, so
 *           they must not be called from them.
 * Memory:   the request struct is the caller's, from submit until `done` has been entered.
 */
#ifndef QNET_CALLER_H
#define QNET_CALLER_H

#include <qnet/buffer.h>

struct qnet_caller;

struct qnet_caller_options {
    const char *url;
    size_t message_bytes_max;  /* 0: 4 MiB + 64 KiB */
    uint64_t reconnect_min_ms; /* 0: 20 */
    uint64_t reconnect_max_ms; /* 0: 1000 */
    void *context;
    /* The connection was made (true) or lost (false). May be NULL. */
    void (*on_state)(void *context, bool connected);
};

struct qnet_request;

/*
 * Q_OK: `answer` is the receiver's now. Q_E_CONNECTION: lost while under way. Q_TIMED_OUT: no
 * answer within timeout_ms (a late one is dropped). Q_UNAVAILABLE: was never sent, since there was
 * no connection within timeout_ms, or none that took it. Q_STOPPING: cancelled, or the caller is
 * being freed. Q_E_NOMEM. Whatever is not Q_OK is in this thread's fault, with the url.
 */
typedef void qnet_done_fn(struct qnet_request *request, enum q_err err, struct qnet_buffer *answer);

struct qnet_request {
    /* Set by the user. */
    struct qnet_buffer *buffer; /* taken by a successful submit */
    uint64_t timeout_ms;        /* 0: none */
    qnet_done_fn *done;
    void *context;

    /* Set before `done`: it may have reached the server. */
    bool was_sent;

    /* Private to the caller between submit and done. */
    struct qnet_exchange *exchange;
};

/* Does not wait for the connection. Q_OK, Q_INVALID (the url), Q_E_NOMEM. */
Q_MUST_CHECK enum q_err qnet_caller_new(
    const struct qnet_caller_options *options, struct qnet_caller **ret_caller);
/* Ends every call under way with Q_STOPPING, by this thread or another, and waits for their `done`; then up to 2 s
 * for answers that come still. NULL is fine. */
void qnet_caller_free(struct qnet_caller *caller);

/* Q_OK: `done` will be called exactly once, never from inside this function. Q_E_NOMEM, Q_STOPPING:
 * not taken. Requests submitted by one thread one after another leave in that order. */
Q_MUST_CHECK enum q_err qnet_caller_submit(
    struct qnet_caller *caller, struct qnet_request *request);
/* After submit has returned: `done` comes soon, with Q_STOPPING unless something was faster. Does
 * nothing once `done` has been entered. */
void qnet_caller_cancel(struct qnet_caller *caller, struct qnet_request *request);
bool qnet_caller_is_connected(const struct qnet_caller *caller);

/* Submit and wait, for programs without a loop. Takes `buffer` whatever it returns, which is what
 * submit or `done` would have said. */
Q_MUST_CHECK enum q_err qnet_caller_call(
    struct qnet_caller *caller,
    struct qnet_buffer *buffer,
    uint64_t timeout_ms,
    struct qnet_buffer **ret_answer);

#endif /* QNET_CALLER_H */
