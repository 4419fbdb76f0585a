/*
 * common/listener.h: a role's address: calls come in, each finds its handler by its operation.
 *
 * HELLO, unknown operations and what is no message at all are answered here.
 *
 * Thread:   handlers run on the transport's threads, those of one connection one after another.
 * Blocking: handlers must not block.
 * Memory:   a call is the handler's until it has answered or dropped it; `message` has views of it.
 */
#ifndef SRV_COMMON_LISTENER_H
#define SRV_COMMON_LISTENER_H

#include <qnet/server.h>
#include <qproto/message.h>

struct srv_listener;
struct srv_op;

typedef void srv_call_fn(
    void *context,
    const struct srv_op *op,
    struct qnet_call *call,
    const struct qproto_message *message);

struct srv_op {
    unsigned op; /* enum qproto_op */
    srv_call_fn *handle;
    const void *route; /* the role's own */
};

struct srv_listener_options {
    const char *url;
    const char *role;    /* "broker" */
    const char *roles;   /* of the whole node, for HELLO */
    const char *program; /* "qmqd 0.1.0" */
    const char *node_id;
    const struct srv_op *ops;
    size_t op_count;
    void *context;
    /* Adds to the answer of a HELLO what the role counts. May be NULL. */
    void (*on_hello)(void *context, Qmq__Wire__HelloAnswer *answer);
    /* May be NULL. See qnet/server.h. */
    void (*on_gone)(void *context, uint64_t connection);
};

/* The answers of qnet_server_new(), with the address and the remedy in the fault. */
Q_MUST_CHECK enum q_err srv_listener_new(
    const struct srv_listener_options *options, struct srv_listener **ret_listener);
/* All calls must have been answered or dropped. NULL is fine. */
void srv_listener_free(struct srv_listener *listener);
/* With the real port. */
const char *srv_listener_url(const struct srv_listener *listener);

#endif /* SRV_COMMON_LISTENER_H */
