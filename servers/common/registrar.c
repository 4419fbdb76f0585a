/*
 * registrar.c: a thread that says "I am here" to meta, for as long as it lives.
 *
 *   tell -> admitted: wait heartbeat_ms, tell again
 *        -> anything else: say so once, wait 100 ms … 3 s, tell again
 */
#include "common/registrar.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <qbase/assert.h>
#include <qbase/clock.h>
#include <qnet/caller.h>
#include <qproto/message.h>

#include "common/log.h"

enum {
    CALL_TIMEOUT_MS = 2000,
    BACKOFF_MIN_MS = 100,
    BACKOFF_MAX_MS = 3000,
    HEARTBEAT_MIN_MS = 100, /* whatever meta says */
    WAITING_FOR_MAX = 256,
};

enum outcome {
    ADMITTED,
    NOT_ADMITTED,
    AWAY,
};

struct srv_registrar {
    struct srv_registrar_options options;
    struct qnet_caller *caller;
    pthread_t thread;

    /* Guarded by it. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stopping;
    bool call_is_over;
    enum q_err call_err;
    struct q_fault call_fault;
    struct qnet_buffer *call_answer;

    /* The thread's own. */
    uint64_t heartbeat_ms;
    char waiting_for[WAITING_FOR_MAX]; /* what the last refusal said */
    bool was_registered;
    bool has_complained; /* since it was last registered */
    enum outcome complaint;
};

static void *registrar_main(void *argument);
static enum outcome tell(struct srv_registrar *registrar);
static enum q_err call(struct srv_registrar *registrar, struct qnet_buffer **ret_answer);
static enum q_err build_request(
    const struct srv_registrar_options *options, unsigned op, struct qnet_buffer **ret_buffer);
static void on_done(struct qnet_request *request, enum q_err err, struct qnet_buffer *answer);
static enum q_err read_answer(
    struct srv_registrar *registrar, struct q_bytes bytes, bool *ret_admitted);
static void report(struct srv_registrar *registrar, enum outcome outcome);
static bool pause_ms(struct srv_registrar *registrar, uint64_t ms);

enum q_err
srv_registrar_new(const struct srv_registrar_options *options, struct srv_registrar **ret_registrar)
{
    struct srv_registrar *registrar = calloc(1, sizeof(*registrar));
    if (!registrar) return Q_FAIL(Q_E_NOMEM);
    registrar->options = *options;

    const struct qnet_caller_options caller_options = { .url = options->meta_url };
    enum q_err err = qnet_caller_new(&caller_options, &registrar->caller);
    if (err != Q_OK) {
        free(registrar);
        return err;
    }

    pthread_condattr_t attributes;
    Q_ASSERT(pthread_condattr_init(&attributes) == 0);
    Q_ASSERT(pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0);
    Q_ASSERT(pthread_cond_init(&registrar->changed, &attributes) == 0);
    Q_ASSERT(pthread_mutex_init(&registrar->lock, NULL) == 0);
    pthread_condattr_destroy(&attributes);

    int error = pthread_create(&registrar->thread, NULL, registrar_main, registrar);
    if (error) {
        qnet_caller_free(registrar->caller);
        pthread_cond_destroy(&registrar->changed);
        pthread_mutex_destroy(&registrar->lock);
        free(registrar);
        return Q_FAIL(q_err_from_errno(error), .sys = error, .what = "a thread can't be started");
    }
    *ret_registrar = registrar;
    return Q_OK;
}

void
srv_registrar_free(struct srv_registrar *registrar)
{
    if (!registrar) return;

    pthread_mutex_lock(&registrar->lock);
    registrar->stopping = true;
    pthread_cond_signal(&registrar->changed);
    pthread_mutex_unlock(&registrar->lock);

    Q_ASSERT(pthread_join(registrar->thread, NULL) == 0);
    qnet_caller_free(registrar->caller);
    pthread_cond_destroy(&registrar->changed);
    pthread_mutex_destroy(&registrar->lock);
    free(registrar);
}

static void *
registrar_main(void *argument)
{
    struct srv_registrar *registrar = argument;
    (void)pthread_setname_np(pthread_self(), "qmq-register");

    uint64_t backoff_ms = BACKOFF_MIN_MS;
    uint64_t wait_ms = 0;
    while (pause_ms(registrar, wait_ms)) {
        enum outcome outcome = tell(registrar);
        report(registrar, outcome);
        if (outcome == ADMITTED) {
            backoff_ms = BACKOFF_MIN_MS;
            wait_ms = q_max_u64(registrar->heartbeat_ms, HEARTBEAT_MIN_MS);
        } else {
            wait_ms = backoff_ms;
            backoff_ms = q_min_u64(backoff_ms * 2, BACKOFF_MAX_MS);
        }
    }
    return NULL;
}

static enum outcome
tell(struct srv_registrar *registrar)
{
    struct qnet_buffer *answer;
    if (call(registrar, &answer) != Q_OK) return AWAY;

    bool admitted = false;
    enum q_err err = read_answer(
        registrar, q_bytes_from(qnet_buffer_data(answer), qnet_buffer_size(answer)), &admitted);
    qnet_buffer_free(answer);
    if (err != Q_OK) return AWAY;
    return admitted ? ADMITTED : NOT_ADMITTED;
}

/* One call, given up when the registrar is to stop. */
static enum q_err
call(struct srv_registrar *registrar, struct qnet_buffer **ret_answer)
{
    unsigned op = registrar->was_registered ? QPROTO_META_HEARTBEAT : QPROTO_META_REGISTER;
    struct qnet_request request = {
        .timeout_ms = CALL_TIMEOUT_MS,
        .done = on_done,
        .context = registrar,
    };
    Q_TRY(build_request(&registrar->options, op, &request.buffer));
    registrar->call_is_over = false;
    enum q_err err = qnet_caller_submit(registrar->caller, &request);
    if (err != Q_OK) {
        qnet_buffer_free(request.buffer);
        return err;
    }

    pthread_mutex_lock(&registrar->lock);
    while (!registrar->call_is_over && !registrar->stopping)
        pthread_cond_wait(&registrar->changed, &registrar->lock);
    if (!registrar->call_is_over) {
        pthread_mutex_unlock(&registrar->lock);
        qnet_caller_cancel(registrar->caller, &request);
        pthread_mutex_lock(&registrar->lock);
        while (!registrar->call_is_over)
            pthread_cond_wait(&registrar->changed, &registrar->lock);
    }
    err = registrar->call_err;
    *ret_answer = registrar->call_answer;
    pthread_mutex_unlock(&registrar->lock);

    if (err != Q_OK) q_fault_adopt(&registrar->call_fault);
    return err;
}

static void
on_done(struct qnet_request *request, enum q_err err, struct qnet_buffer *answer)
{
    struct srv_registrar *registrar = request->context;
    pthread_mutex_lock(&registrar->lock);
    registrar->call_is_over = true;
    registrar->call_err = err;
    registrar->call_answer = answer;
    if (err != Q_OK) registrar->call_fault = *q_fault_last();
    pthread_cond_signal(&registrar->changed);
    pthread_mutex_unlock(&registrar->lock);
}

static enum q_err
build_request(
    const struct srv_registrar_options *options, unsigned op, struct qnet_buffer **ret_buffer)
{
    /* protobuf-c's strings are not const; it does not write to what it packs. */
    Qmq__Wire__NodeRecord record = QMQ__WIRE__NODE_RECORD__INIT;
    record.node_id = (char *)options->node_id;
    record.cluster = (char *)options->cluster;
    record.broker_group = (char *)options->broker_group;
    record.role = (char *)options->role;
    record.address = (char *)options->address;
    record.version = (char *)options->version;
    if (options->one_way) record.one_way_address = (char *)options->one_way;

    struct qnet_buffer *buffer;
    Q_TRY(qnet_buffer_new(qproto_size(&record.base, 0), &buffer));
    qproto_write(qnet_buffer_data(buffer), op, 0, &record.base, 0);
    *ret_buffer = buffer;
    return Q_OK;
}

static enum q_err
read_answer(struct srv_registrar *registrar, struct q_bytes bytes, bool *ret_admitted)
{
    struct qproto_message message;
    Q_TRY(qproto_parse(bytes, &message));
    if (message.status != 0) return qproto_error_read(message.header);

    struct qproto_arena arena;
    qproto_arena_init(&arena);
    Qmq__Wire__RegisterAnswer *answer;
    enum q_err err = QPROTO_UNPACK(message.header, register_answer, &arena, &answer);
    if (err == Q_OK) {
        *ret_admitted = answer->admitted;
        registrar->heartbeat_ms = answer->heartbeat_ms;
        (void)snprintf(
            registrar->waiting_for, sizeof(registrar->waiting_for), "%s", answer->waiting_for);
    }
    qproto_arena_reset(&arena);
    return err;
}

/* A line for each change, not for each attempt. */
static void
report(struct srv_registrar *registrar, enum outcome outcome)
{
    const struct srv_registrar_options *options = &registrar->options;

    if (outcome == ADMITTED) {
        if (!registrar->was_registered || registrar->has_complained)
            srv_log(
                SRV_NODE_REGISTERED, "meta=%s node=%s role=%s group=%s address=%s",
                options->meta_url, options->node_id, options->role, options->broker_group,
                options->address);
        registrar->has_complained = false;
        if (!registrar->was_registered) {
            registrar->was_registered = true;
            options->on_registered(options->context);
        }
        return;
    }

    if (registrar->has_complained && registrar->complaint == outcome) return;
    pthread_mutex_lock(&registrar->lock);
    bool stopping = registrar->stopping;
    pthread_mutex_unlock(&registrar->lock);
    if (stopping) return;

    registrar->has_complained = true;
    registrar->complaint = outcome;
    if (outcome == NOT_ADMITTED) {
        srv_log(
            SRV_NODE_WAITING, "for=admission meta=%s cause=%s", options->meta_url,
            srv_quote(registrar->waiting_for));
        return;
    }
    const char *port = strrchr(options->meta_url, ':');
    srv_log(
        SRV_NODE_WAITING, "for=meta meta=%s cause=%s hint=%s", options->meta_url,
        srv_quote(q_fault_last()->what),
        srv_quote(q_text(
            "start it: qmq-meta --dir DIR --port-base %s; or name another one: --meta URL",
            port ? port + 1 : "N")));
}

/* False when the registrar is to stop. */
static bool
pause_ms(struct srv_registrar *registrar, uint64_t ms)
{
    /* The condition's own clock; ours counts suspend. */
    struct timespec until;
    Q_ASSERT(clock_gettime(CLOCK_MONOTONIC, &until) == 0);
    uint64_t ns = (uint64_t)until.tv_nsec + ms * Q_NS_PER_MS;
    until.tv_sec += (time_t)(ns / Q_NS_PER_S);
    until.tv_nsec = (long)(ns % Q_NS_PER_S);

    pthread_mutex_lock(&registrar->lock);
    int error = 0;
    while (!registrar->stopping && error == 0)
        error = pthread_cond_timedwait(&registrar->changed, &registrar->lock, &until);
    bool go_on = !registrar->stopping;
    pthread_mutex_unlock(&registrar->lock);
    return go_on;
}
