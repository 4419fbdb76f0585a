/*
 * call.c: see call.h.
 */
#include "call.h"

#include <stdlib.h>

#include <qbase/clock.h>
#include <qbase/list.h>

#include "hooks.h"
#include "support.h"

enum {
    /* A pull's answer holds one batch at least, however large. */
    ANSWER_BYTES_MAX = 8 * 1024 * 1024,
    HELLO_TIMEOUT_MS = 10 * 1000,
};

struct link {
    struct qnet_caller *caller;
    const char *program;
    struct hooks *hooks;
    char *url;

    pthread_mutex_t lock;
    pthread_cond_t greeted;
    struct call hello;
    bool is_closing;
    bool was_connected;
    bool is_greeting; /* `hello` is under way */
    bool was_greeted; /* `refused` is the peer's word */
    enum q_err refused;
    struct q_fault fault;
};

static void on_state(void *context, bool connected);
static void tell_state(const struct link *link, bool connected, bool was_connected);
static void on_hello(struct qnet_request *request, enum q_err err, struct qnet_buffer *buffer);
static enum q_err hello_check(struct qnet_buffer *buffer);
static void on_waited(struct qnet_request *request, enum q_err err, struct qnet_buffer *answer);

enum q_err
link_open(const char *url, const char *program, struct hooks *hooks, struct link **ret_link)
{
    struct link *link = calloc(1, sizeof(*link));
    if (!link) return Q_FAIL(Q_E_NOMEM);
    link->program = program;
    link->hooks = hooks;
    link->url = strdup(url);
    pthread_mutex_init(&link->lock, NULL);
    condition_init(&link->greeted);

    struct qnet_caller_options options = {
        .url = url,
        .message_bytes_max = ANSWER_BYTES_MAX,
        .context = link,
        .on_state = on_state,
    };
    /* Locked, so that a connection made at once finds `caller` set. */
    pthread_mutex_lock(&link->lock);
    enum q_err err = link->url ? qnet_caller_new(&options, &link->caller) : Q_FAIL(Q_E_NOMEM);
    pthread_mutex_unlock(&link->lock);
    if (err != Q_OK) {
        link_close(link);
        return err;
    }
    *ret_link = link;
    return Q_OK;
}

void
link_close(struct link *link)
{
    if (!link) return;
    pthread_mutex_lock(&link->lock);
    link->is_closing = true;
    pthread_mutex_unlock(&link->lock);
    qnet_caller_free(link->caller);
    pthread_cond_destroy(&link->greeted);
    pthread_mutex_destroy(&link->lock);
    free(link->url);
    free(link);
}

static void
on_state(void *context, bool connected)
{
    struct link *link = context;

    pthread_mutex_lock(&link->lock);
    bool is_greeting = link->is_greeting;
    bool was_connected = link->was_connected;
    bool is_closing = link->is_closing;
    link->is_greeting |= connected;
    link->was_connected |= connected;
    pthread_mutex_unlock(&link->lock);
    if (!is_closing) tell_state(link, connected, was_connected);
    if (!connected || is_greeting) return;

    Qmq__Wire__HelloRequest hello = QMQ__WIRE__HELLO_REQUEST__INIT;
    hello.protocol_max = QPROTO_VERSION;
    hello.program = (char *)link->program;
    link->hello.net = (struct qnet_request){ .timeout_ms = HELLO_TIMEOUT_MS, .done = on_hello };
    enum q_err err = call_build(QPROTO_HELLO, &hello.base, 0, &link->hello.net.buffer, NULL);
    if (err == Q_OK) err = link_submit(link, &link->hello);
    if (err == Q_OK) return;

    pthread_mutex_lock(&link->lock);
    link->is_greeting = false;
    pthread_mutex_unlock(&link->lock);
}

static void
tell_state(const struct link *link, bool connected, bool was_connected)
{
    if (!connected && was_connected) {
        hooks_count(link->hooks, COUNT_lost, 1);
        hooks_log(link->hooks, QMQ_LOG_WARNING, "the connection to %s is lost", link->url);
    } else if (connected) {
        hooks_count(link->hooks, COUNT_connects, 1);
        hooks_count(link->hooks, COUNT_reconnects, was_connected);
        hooks_log(
            link->hooks, QMQ_LOG_INFO, "connected to %s%s", link->url,
            was_connected ? " again" : "");
    }
}

static void
on_hello(struct qnet_request *request, enum q_err err, struct qnet_buffer *buffer)
{
    struct link *link = q_container_of(request, struct call, net)->link;

    bool has_answered = err == Q_OK;
    if (has_answered) err = hello_check(buffer);
    if (has_answered && err != Q_OK) {
        struct q_fault fault = *q_fault_last();
        hooks_log_fault(link->hooks, QMQ_LOG_ERROR, "a server refuses the client", &fault);
        q_fault_adopt(&fault);
    }

    pthread_mutex_lock(&link->lock);
    link->is_greeting = false;
    if (has_answered) {
        link->was_greeted = true;
        link->refused = err;
        link->fault = *q_fault_last();
        pthread_cond_broadcast(&link->greeted);
    }
    pthread_mutex_unlock(&link->lock);
}

static enum q_err
hello_check(struct qnet_buffer *buffer)
{
    struct answer answer;
    Q_TRY(answer_open(&answer, buffer, QPROTO_HELLO));

    uint32_t protocol = ((const Qmq__Wire__HelloAnswer *)answer.header)->protocol;
    answer_close(&answer);
    if (protocol <= QPROTO_VERSION) return Q_OK;
    return Q_FAIL(
        Q_E_VERSION,
        .what = q_text("the server wants protocol %u, this is %d", protocol, QPROTO_VERSION),
        .hint = "use programs of one version");
}

enum q_err
link_hello_wait(struct link *link, uint64_t timeout_ms)
{
    uint64_t until_ns = q_clock_monotonic_ns(q_clock_system()) + timeout_ms * (uint64_t)Q_NS_PER_MS;

    pthread_mutex_lock(&link->lock);
    while (!link->was_greeted && condition_wait(&link->greeted, &link->lock, until_ns))
        continue;
    bool was_greeted = link->was_greeted;
    enum q_err refused = link->refused;
    if (refused != Q_OK) q_fault_adopt(&link->fault);
    pthread_mutex_unlock(&link->lock);

    if (was_greeted) return refused;
    return Q_FAIL(
        Q_UNAVAILABLE, .path = link->url,
        .what = q_text("no answer within %llu ms", (unsigned long long)timeout_ms));
}

bool
link_is_lost(struct link *link)
{
    pthread_mutex_lock(&link->lock);
    bool was_connected = link->was_connected;
    pthread_mutex_unlock(&link->lock);
    return was_connected && !qnet_caller_is_connected(link->caller);
}

enum q_err
link_submit(struct link *link, struct call *call)
{
    call->link = link;
    enum q_err err = qnet_caller_submit(link->caller, &call->net);
    if (err == Q_OK) return Q_OK;
    qnet_buffer_free(call->net.buffer);
    call->net.buffer = NULL;
    return err;
}

void
call_cancel(struct call *call)
{
    qnet_caller_cancel(call->link->caller, &call->net);
}

enum q_err
call_build(
    unsigned op,
    const ProtobufCMessage *header,
    size_t payload_size,
    struct qnet_buffer **ret_buffer,
    uint8_t **ret_payload)
{
    struct qnet_buffer *buffer;
    Q_TRY(qnet_buffer_new(qproto_size(header, payload_size), &buffer));

    uint8_t *payload = qproto_write(qnet_buffer_data(buffer), op, 0, header, payload_size);
    if (ret_payload) *ret_payload = payload;
    *ret_buffer = buffer;
    return Q_OK;
}

enum q_err
answer_open(struct answer *answer, struct qnet_buffer *buffer, unsigned op)
{
    struct qproto_message message;
    ProtobufCMessage *header = NULL;

    answer->buffer = buffer;
    qproto_arena_init(&answer->arena);
    struct q_bytes bytes = q_bytes_from(qnet_buffer_data(buffer), qnet_buffer_size(buffer));
    enum q_err err = qproto_parse(bytes, &message);
    if (err == Q_OK && message.op != op)
        err = Q_FAIL(
            Q_E_PROTOCOL,
            .what = q_text(
                "an answer to %s came for %s", qproto_op_name(message.op), qproto_op_name(op)));
    if (err == Q_OK && message.status != 0) err = qproto_error_read(message.header);
    if (err == Q_OK)
        err = qproto_unpack(message.header, qproto_answer_descriptor(op), &answer->arena, &header);
    if (err != Q_OK) {
        answer_close(answer);
        return err;
    }
    answer->header = header;
    answer->payload = message.payload;
    return Q_OK;
}

void
answer_close(struct answer *answer)
{
    qproto_arena_reset(&answer->arena);
    qnet_buffer_free(answer->buffer);
}

void
call_waiter_init(struct call_waiter *waiter, struct qnet_buffer *buffer, uint64_t timeout_ms)
{
    waiter->call = (struct call){
        .net = { .buffer = buffer, .timeout_ms = timeout_ms, .done = on_waited },
    };
    pthread_mutex_init(&waiter->lock, NULL);
    pthread_cond_init(&waiter->wake, NULL);
    waiter->is_over = false;
    waiter->answer = NULL;
}

enum q_err
call_wait(struct call_waiter *waiter, enum q_err submitted, struct qnet_buffer **ret_answer)
{
    enum q_err err = submitted;
    if (submitted == Q_OK) {
        pthread_mutex_lock(&waiter->lock);
        while (!waiter->is_over)
            pthread_cond_wait(&waiter->wake, &waiter->lock);
        pthread_mutex_unlock(&waiter->lock);
        err = waiter->err;
        if (err != Q_OK) q_fault_adopt(&waiter->fault);
    }
    pthread_cond_destroy(&waiter->wake);
    pthread_mutex_destroy(&waiter->lock);
    if (err == Q_OK) *ret_answer = waiter->answer;
    return err;
}

static void
on_waited(struct qnet_request *request, enum q_err err, struct qnet_buffer *answer)
{
    struct call *call = q_container_of(request, struct call, net);
    struct call_waiter *waiter = q_container_of(call, struct call_waiter, call);

    /* Signalled under the lock: the waiter lives on a stack that is left right after. */
    pthread_mutex_lock(&waiter->lock);
    waiter->err = err;
    if (err != Q_OK) waiter->fault = *q_fault_last();
    waiter->answer = answer;
    waiter->is_over = true;
    pthread_cond_signal(&waiter->wake);
    pthread_mutex_unlock(&waiter->lock);
}
