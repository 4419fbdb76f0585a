/*
 * test_net_common.h: a server that does what a test tells it, and calls that are watched.
 */
#ifndef TEST_NET_COMMON_H
#define TEST_NET_COMMON_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include <qnet/caller.h>
#include <qnet/server.h>

enum {
    NET_PATIENCE_MS = 10000,
    NET_HELD_MAX = 16384
};

/* For what happens on other threads. */
#define WAIT_FOR(condition)                                                                        \
    do {                                                                                           \
        for (int waited_ = 0; waited_ < NET_PATIENCE_MS && !(condition); waited_++) {              \
            usleep(1000);                                                                          \
        }                                                                                          \
        cr_assert(condition, "still not so after %d ms", NET_PATIENCE_MS);                         \
    } while (0)

static inline uint64_t
net_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static inline const char *
net_ipc_url(const char *name)
{
    return q_text("ipc:///tmp/qmq-test-%d-%s.sock", (int)getpid(), name);
}

static inline struct qnet_buffer *
net_text(const char *text)
{
    struct qnet_buffer *buffer;
    cr_assert_eq(qnet_buffer_new(strlen(text), &buffer), Q_OK);
    memcpy(qnet_buffer_data(buffer), text, strlen(text));
    return buffer;
}

static inline struct qnet_buffer *
net_number(uint64_t number)
{
    struct qnet_buffer *buffer;
    cr_assert_eq(qnet_buffer_new(sizeof(number), &buffer), Q_OK);
    q_store_le64(qnet_buffer_data(buffer), number);
    return buffer;
}

static inline bool
net_is_text(struct qnet_buffer *buffer, const char *text)
{
    return qnet_buffer_size(buffer) == strlen(text) &&
           memcmp(qnet_buffer_data(buffer), text, strlen(text)) == 0;
}

/* A server that either echoes or holds what comes. */
struct net_server {
    struct qnet_server *server;
    atomic_bool holds;
    atomic_uint came;
    atomic_uint disordered; /* numbers that were not one more than the one before */
    atomic_uint gone;
    atomic_ullong gone_connection;

    pthread_mutex_t lock;
    uint64_t next_number;
    struct qnet_call *held[NET_HELD_MAX];
    unsigned held_count;
};

static inline void
net_on_call(void *context, struct qnet_call *call)
{
    struct net_server *net = context;
    struct q_bytes request = qnet_call_request(call);

    pthread_mutex_lock(&net->lock);
    if (request.size == sizeof(uint64_t)) {
        uint64_t number = q_load_le64(request.data);
        if (number != net->next_number) atomic_fetch_add(&net->disordered, 1);
        net->next_number = number + 1;
    }
    bool holds = atomic_load(&net->holds);
    if (holds) net->held[net->held_count++] = call;
    pthread_mutex_unlock(&net->lock);

    /* First: the other side may look at it as soon as it has the answer. */
    atomic_fetch_add(&net->came, 1);
    if (!holds) qnet_call_answer(call, qnet_call_take_request(call));
}

/* Answer (by echo) or drop the oldest held calls, `most` of them. */
static inline void
net_release(struct net_server *net, unsigned most, bool answers)
{
    for (unsigned i = 0; i < most; i++) {
        pthread_mutex_lock(&net->lock);
        struct qnet_call *call = net->held_count > 0 ? net->held[0] : NULL;
        if (call != NULL) {
            net->held_count--;
            memmove(net->held, net->held + 1, net->held_count * sizeof(call));
        }
        pthread_mutex_unlock(&net->lock);
        if (call == NULL) break;
        if (answers) {
            qnet_call_answer(call, qnet_call_take_request(call));
        } else {
            qnet_call_drop(call);
        }
    }
}

/* As a broker does: what is held of a connection that is gone is dropped. */
static inline void
net_on_gone(void *context, uint64_t connection)
{
    struct net_server *net = context;
    struct qnet_call *over[64];
    unsigned count;
    do {
        count = 0;
        pthread_mutex_lock(&net->lock);
        for (unsigned i = 0; i < net->held_count && count < 64;) {
            if (qnet_call_connection(net->held[i]) == connection) {
                over[count++] = net->held[i];
                net->held[i] = net->held[--net->held_count];
            } else {
                i++;
            }
        }
        pthread_mutex_unlock(&net->lock);
        for (unsigned i = 0; i < count; i++) {
            qnet_call_drop(over[i]);
        }
    } while (count > 0);
    atomic_store(&net->gone_connection, connection);
    atomic_fetch_add(&net->gone, 1);
}

static inline enum q_err
net_on_busy(void *context, struct q_bytes request, struct qnet_buffer **ret_answer)
{
    (void)context;
    (void)request;
    *ret_answer = net_text("busy");
    return Q_OK;
}

/* `options` may be NULL. */
static inline void
net_server_start(struct net_server *net, const char *url, const struct qnet_server_options *options)
{
    struct qnet_server_options full = { 0 };
    if (options != NULL) full = *options;
    full.url = url;
    full.context = net;
    full.on_call = net_on_call;
    full.on_gone = net_on_gone;
    memset(net, 0, sizeof(*net));
    cr_assert_eq(pthread_mutex_init(&net->lock, NULL), 0);
    cr_assert_eq(qnet_server_new(&full, &net->server), Q_OK, "%s", q_fault_last()->what);
}

static inline void
net_server_stop(struct net_server *net)
{
    qnet_server_free(net->server);
    cr_assert_eq(net->held_count, 0);
    pthread_mutex_destroy(&net->lock);
}

static inline unsigned
net_calls_held(struct net_server *net)
{
    struct qnet_server_stats stats;
    qnet_server_stats(net->server, &stats);
    return stats.calls_held;
}

static inline struct qnet_caller *
net_connect(const char *url)
{
    struct qnet_caller *caller;
    struct qnet_caller_options options = { .url = url };
    cr_assert_eq(qnet_caller_new(&options, &caller), Q_OK, "%s", q_fault_last()->what);
    WAIT_FOR(qnet_caller_is_connected(caller));
    return caller;
}

/* A call whose end is counted in `*over`. */
struct net_call {
    struct qnet_request request;
    atomic_uint *over;
    enum q_err err;
    uint64_t number;   /* what was sent */
    uint64_t answered; /* what came back */
    uint64_t ended_ms;
    atomic_uint ends;
};

static inline void
net_on_done(struct qnet_request *request, enum q_err err, struct qnet_buffer *answer)
{
    struct net_call *call = request->context;
    call->err = err;
    call->ended_ms = net_now_ms();
    if (err == Q_OK && qnet_buffer_size(answer) == sizeof(uint64_t)) {
        call->answered = q_load_le64(qnet_buffer_data(answer));
    }
    qnet_buffer_free(answer);
    atomic_fetch_add(&call->ends, 1);
    atomic_fetch_add(call->over, 1);
}

static inline void
net_submit(
    struct qnet_caller *caller,
    struct net_call *call,
    struct qnet_buffer *buffer,
    uint64_t timeout_ms,
    atomic_uint *over)
{
    memset(call, 0, sizeof(*call));
    call->over = over;
    call->request.buffer = buffer;
    call->request.timeout_ms = timeout_ms;
    call->request.done = net_on_done;
    call->request.context = call;
    cr_assert_eq(qnet_caller_submit(caller, &call->request), Q_OK);
}

static inline void
net_submit_number(
    struct qnet_caller *caller,
    struct net_call *call,
    uint64_t number,
    uint64_t timeout_ms,
    atomic_uint *over)
{
    net_submit(caller, call, net_number(number), timeout_ms, over);
    call->number = number;
}

/* A call that must be answered with its own bytes. */
static inline void
net_check_echo(struct qnet_caller *caller, const char *text)
{
    struct qnet_buffer *answer;
    enum q_err err = qnet_caller_call(caller, net_text(text), NET_PATIENCE_MS, &answer);
    cr_assert_eq(err, Q_OK, "%s: %s", q_err_name(err), q_fault_last()->what);
    cr_assert(net_is_text(answer, text));
    qnet_buffer_free(answer);
}

#endif /* TEST_NET_COMMON_H */
