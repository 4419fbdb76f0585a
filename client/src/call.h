/*
 * call.h: a connection to one server, and calls over it.
 *
 * Every connection begins with a HELLO; its answer is kept, so that whoever connects can ask whether
 * the peer is one of ours.
 *
 * Thread:   any.
 * Blocking: call_wait(), link_hello_wait() and link_close().
 * Memory:   a call is its user's, from submit until its `done` has been entered.
 */
#ifndef QMQ_SRC_CALL_H
#define QMQ_SRC_CALL_H

#include <pthread.h>

#include <qnet/caller.h>
#include <qproto/message.h>

struct hooks;
struct link;

struct call {
    struct qnet_request net;
    struct link *link; /* it was last submitted to; valid until `done` returns */
};

/* An answer, taken apart. */
struct answer {
    struct qnet_buffer *buffer;
    const ProtobufCMessage *header; /* as the operation says */
    struct q_bytes payload;
    struct qproto_arena arena;
};

/* A call whose `done` wakes the thread that waits for it. */
struct call_waiter {
    struct call call;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool is_over;
    enum q_err err;
    struct q_fault fault;
    struct qnet_buffer *answer;
};

/* Does not wait for the connection. `program` and `hooks` live as long as the link. */
Q_MUST_CHECK enum q_err link_open(
    const char *url, const char *program, struct hooks *hooks, struct link **ret_link);
/* Ends its calls with Q_STOPPING. NULL is fine. */
void link_close(struct link *link);
/* Q_OK: the peer has said hello and speaks our protocol. Q_UNAVAILABLE, or what it answered. */
Q_MUST_CHECK enum q_err link_hello_wait(struct link *link, uint64_t timeout_ms);
/* It was connected and is not now. A call would wait for the connection. */
bool link_is_lost(struct link *link);
/* As qnet_caller_submit(), but the buffer is gone when this fails. */
Q_MUST_CHECK enum q_err link_submit(struct link *link, struct call *call);
/* `done` has not been entered yet. */
void call_cancel(struct call *call);

/* A message to be sent; `*ret_payload` (may be NULL) is where its payload goes. */
Q_MUST_CHECK enum q_err call_build(
    unsigned op,
    const ProtobufCMessage *header,
    size_t payload_size,
    struct qnet_buffer **ret_buffer,
    uint8_t **ret_payload);

/*
 * Take an answer apart. Takes `buffer`. Q_OK; the failure it tells, as this thread's fault;
 * Q_E_PROTOCOL. Unless Q_OK there is nothing to close.
 */
Q_MUST_CHECK enum q_err answer_open(struct answer *answer, struct qnet_buffer *buffer, unsigned op);
void answer_close(struct answer *answer);

/* Make `waiter` a call with this request. Takes `buffer`. */
void call_waiter_init(struct call_waiter *waiter, struct qnet_buffer *buffer, uint64_t timeout_ms);
/* After a submit that ended with `submitted`: wait for the end, and free what the waiter has. */
Q_MUST_CHECK enum q_err call_wait(
    struct call_waiter *waiter, enum q_err submitted, struct qnet_buffer **ret_answer);

#endif /* QMQ_SRC_CALL_H */
