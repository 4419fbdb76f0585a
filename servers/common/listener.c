/*
 * listener.c: from a call to its handler.
 */
#include "common/listener.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <qbase/clock.h>

#include "common/answer.h"

struct srv_listener {
    struct srv_listener_options options;
    struct qnet_server *server;
};

static void on_call(void *context, struct qnet_call *call);
static void on_gone(void *context, uint64_t connection);
static enum q_err on_busy(void *context, struct q_bytes request, struct qnet_buffer **ret_answer);
static void answer_hello(
    const struct srv_listener *listener,
    struct qnet_call *call,
    const struct qproto_message *message);
static enum q_err unknown_op(const struct srv_listener *listener, unsigned op);

enum q_err
srv_listener_new(const struct srv_listener_options *options, struct srv_listener **ret_listener)
{
    struct srv_listener *listener = malloc(sizeof(*listener));
    if (!listener) return Q_FAIL(Q_E_NOMEM);
    *listener = (struct srv_listener){ .options = *options };

    const struct qnet_server_options server_options = {
        .url = options->url,
        .context = listener,
        .on_call = on_call,
        .on_gone = options->on_gone ? on_gone : NULL,
        .on_busy = on_busy,
    };
    enum q_err err = qnet_server_new(&server_options, &listener->server);
    if (err != Q_OK) {
        free(listener);
        return err;
    }
    *ret_listener = listener;
    return Q_OK;
}

void
srv_listener_free(struct srv_listener *listener)
{
    if (!listener) return;
    qnet_server_free(listener->server);
    free(listener);
}

const char *
srv_listener_url(const struct srv_listener *listener)
{
    return qnet_server_url(listener->server);
}

static void
on_call(void *context, struct qnet_call *call)
{
    const struct srv_listener *listener = context;
    const struct srv_listener_options *options = &listener->options;

    struct qproto_message message;
    enum q_err err = qproto_parse(qnet_call_request(call), &message);
    if (err != Q_OK) {
        srv_answer_error(call, 0, err);
        return;
    }
    if (message.op == QPROTO_HELLO) {
        answer_hello(listener, call, &message);
        return;
    }
    for (size_t i = 0; i < options->op_count; i++) {
        if (options->ops[i].op != message.op) continue;
        options->ops[i].handle(options->context, &options->ops[i], call, &message);
        return;
    }
    srv_answer_error(call, message.op, unknown_op(listener, message.op));
}

static void
on_gone(void *context, uint64_t connection)
{
    const struct srv_listener *listener = context;
    listener->options.on_gone(listener->options.context, connection);
}

static enum q_err
on_busy(void *context, struct q_bytes request, struct qnet_buffer **ret_answer)
{
    (void)context;
    struct qproto_message message;
    if (qproto_parse(request, &message) != Q_OK) message.op = 0;
    return srv_build_error(
        message.op, Q_FAIL(Q_BUSY, .what = "this connection has as many calls under way as it may"),
        ret_answer);
}

/* Of the process. */
static uint64_t
cpu_us(void)
{
    struct timespec used;
    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used) != 0) return 0;
    return ((uint64_t)used.tv_sec * Q_NS_PER_S + (uint64_t)used.tv_nsec) / Q_NS_PER_US;
}

static void
answer_hello(
    const struct srv_listener *listener,
    struct qnet_call *call,
    const struct qproto_message *message)
{
    struct qproto_arena arena;
    qproto_arena_init(&arena);
    Qmq__Wire__HelloRequest *request;
    enum q_err err = QPROTO_UNPACK(message->header, hello_request, &arena, &request);
    qproto_arena_reset(&arena);
    if (err != Q_OK) {
        srv_answer_error(call, message->op, err);
        return;
    }

    /* There is one version of the protocol, and no features: nothing to negotiate yet. */
    Qmq__Wire__HelloAnswer answer = QMQ__WIRE__HELLO_ANSWER__INIT;
    answer.protocol = QPROTO_VERSION;
    answer.program = (char *)listener->options.program;
    answer.node_id = (char *)listener->options.node_id;
    answer.roles = (char *)listener->options.roles;
    answer.cpu_us = cpu_us();
    if (listener->options.on_hello) listener->options.on_hello(listener->options.context, &answer);
    srv_answer(call, message->op, &answer.base);
}

struct op_role {
    unsigned op;
    const char *role;
};

static const struct op_role op_roles[] = {
#define OP_ROLE(name, number, request, answer, role) { number, role },
    QPROTO_OPS(OP_ROLE)
#undef OP_ROLE
};

static enum q_err
unknown_op(const struct srv_listener *listener, unsigned op)
{
    for (size_t i = 0; i < sizeof(op_roles) / sizeof(op_roles[0]); i++) {
        if (op_roles[i].op != op) continue;
        return Q_FAIL(
            Q_UNKNOWN_OPERATION,
            .what = q_text("%s is not for role %s", qproto_op_name(op), listener->options.role),
            .hint = q_text("send it to the address of role %s", op_roles[i].role));
    }
    return Q_FAIL(Q_UNKNOWN_OPERATION, .what = q_text("operation %u is unknown", op));
}
