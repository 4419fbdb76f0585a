/*
 * request.c: the way of a call, and the pool that requests come from.
 */
#include "broker/request.h"

#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "broker/store_thread.h"
#include "broker/waiting.h"
#include "common/answer.h"

static void receive(
    struct broker *broker,
    const struct broker_route *route,
    struct qnet_call *call,
    const struct qproto_message *message);
static enum q_err read_and_submit(
    struct broker_request *request, const struct qproto_message *message);
static void on_done(struct qlog_request *store_request, enum q_err err);
static void finish(struct srv_job *job);

void
broker_on_call(
    void *context,
    const struct srv_op *op,
    struct qnet_call *call,
    const struct qproto_message *message)
{
    struct broker *broker = context;
    /* Whoever has closed the gate knows that every request is in the store or over. */
    if (!srv_gate_enter(&broker->gate)) {
        srv_answer_error(call, message->op, Q_STOPPING);
        return;
    }
    receive(broker, op->route, call, message);
    srv_gate_leave(&broker->gate);
}

static void
receive(
    struct broker *broker,
    const struct broker_route *route,
    struct qnet_call *call,
    const struct qproto_message *message)
{
    struct broker_request *request = broker_request_take(broker);
    if (!request) {
        srv_answer_error(
            call, message->op,
            Q_FAIL(Q_BUSY, .what = q_text("%d calls are under way", BROKER_REQUESTS_MAX)));
        return;
    }
    request->route = route;
    request->call = call;

    enum q_err err = read_and_submit(request, message);
    if (err == Q_OK) return;
    broker_waiting_leave(request);
    srv_answer_error(call, message->op, err);
    broker_request_give_back(request);
}

/* Q_OK: the store has it. */
static enum q_err
read_and_submit(struct broker_request *request, const struct qproto_message *message)
{
    ProtobufCMessage *header;
    Q_TRY(qproto_unpack(
        message->header, qproto_request_descriptor(message->op), &request->arena, &header));
    Q_TRY(request->route->on_net(request, header, message->payload));

    request->store.any.kind = request->route->kind;
    request->store.any.done = on_done;
    request->store.any.context = request;
    return broker_store_submit(request->broker->store, &request->store.any);
}

/* STORE: nothing but the hand-over. One wake-up for all that a turn finishes. */
static void
on_done(struct qlog_request *store_request, enum q_err err)
{
    struct broker_request *request = store_request->context;
    /* Without memory for an error the call is dropped. */
    request->has_failed = err != Q_OK;
    if (err != Q_OK && srv_build_error(request->route->op, err, &request->error) != Q_OK)
        request->error = NULL;

    request->finish.run = finish;
    enum q_err post_err = srv_worker_post(request->broker->answerer, &request->finish);
    Q_ASSERT(post_err == Q_OK); /* it has room for every request there can be */
}

/* ANSWER */
static void
finish(struct srv_job *job)
{
    struct broker_request *request = q_container_of(job, struct broker_request, finish);
    bool is_cancelled = broker_waiting_leave(request);

    struct qnet_buffer *answer = request->error;
    if (!request->has_failed) {
        enum q_err err = request->route->on_answer(request, &answer);
        if (err != Q_OK && srv_build_error(request->route->op, err, &answer) != Q_OK) answer = NULL;
    }
    request->error = NULL;
    if (answer)
        qnet_call_answer(request->call, answer);
    else
        qnet_call_drop(request->call);

    request->is_finished = true;
    if (!is_cancelled || request->is_cancel_over) broker_request_give_back(request);
}

enum q_err
broker_build_answer(
    const struct broker_request *request,
    const ProtobufCMessage *header,
    struct qnet_buffer **ret_answer)
{
    struct qnet_buffer *answer;
    Q_TRY(qnet_buffer_new(qproto_size(header, 0), &answer));
    qproto_write(qnet_buffer_data(answer), request->route->op, 0, header, 0);
    *ret_answer = answer;
    return Q_OK;
}

enum q_err
broker_read_consumer(
    const char *subject,
    const char *group,
    const char *consumer,
    uint64_t session,
    struct qlog_consumer *ret_who)
{
    Q_TRY(qproto_check_read_subject(subject));
    Q_TRY(qproto_check_name("group", group, QPROTO_GROUP_MAX));
    Q_TRY(qproto_check_name("consumer id", consumer, QPROTO_CONSUMER_MAX));
    *ret_who = (struct qlog_consumer){
        .subject = q_bytes_from_text(subject),
        .group = q_bytes_from_text(group),
        .consumer = q_bytes_from_text(consumer),
        .session = session,
    };
    return Q_OK;
}

enum q_err
broker_read_start(uint32_t start, enum qlog_start *ret_start)
{
    if (start > QLOG_START_SEQUENCE)
        return Q_FAIL(Q_INVALID, .what = q_text("there is no start %u", start));
    *ret_start = (enum qlog_start)start;
    return Q_OK;
}

void *
broker_request_array(struct broker_request *request, size_t count, size_t size)
{
    /* Counts come from checked headers: far below where this could overflow. */
    ProtobufCAllocator *allocator = &request->arena.allocator;
    return allocator->alloc(allocator->allocator_data, count * size);
}

void
broker_pool_init(struct broker *broker)
{
    broker->pool = (struct broker_pool){ .free = NULL };
    Q_ASSERT(pthread_mutex_init(&broker->pool.lock, NULL) == 0);
}

void
broker_pool_fini(struct broker *broker)
{
    Q_ASSERT(broker->pool.used_count == 0);
    while (broker->pool.free) {
        struct broker_request *request = broker->pool.free;
        broker->pool.free = request->next_free;
        free(request);
    }
    pthread_mutex_destroy(&broker->pool.lock);
}

unsigned
broker_pool_used(struct broker *broker)
{
    pthread_mutex_lock(&broker->pool.lock);
    unsigned count = broker->pool.used_count;
    pthread_mutex_unlock(&broker->pool.lock);
    return count;
}

struct broker_request *
broker_request_take(struct broker *broker)
{
    struct broker_pool *pool = &broker->pool;
    pthread_mutex_lock(&pool->lock);
    bool may = pool->used_count < BROKER_REQUESTS_MAX;
    struct broker_request *request = NULL;
    if (may) {
        pool->used_count++;
        request = pool->free;
        if (request) {
            pool->free = request->next_free;
            pool->free_count--;
        }
    }
    pthread_mutex_unlock(&pool->lock);
    if (!may) return NULL;

    if (!request) request = malloc(sizeof(*request));
    if (!request) {
        pthread_mutex_lock(&pool->lock);
        pool->used_count--;
        pthread_mutex_unlock(&pool->lock);
        return NULL;
    }
    /* Not the arena, of which most requests touch little. */
    memset(request, 0, offsetof(struct broker_request, arena));
    qproto_arena_init(&request->arena);
    request->broker = broker;
    q_list_init(&request->waiting);
    return request;
}

void
broker_request_give_back(struct broker_request *request)
{
    struct broker *broker = request->broker;
    struct broker_pool *pool = &broker->pool;

    atomic_fetch_sub(&broker->publish_bytes, request->publish_bytes);
    qproto_arena_reset(&request->arena);

    pthread_mutex_lock(&pool->lock);
    pool->used_count--;
    bool is_kept = pool->free_count < BROKER_REQUESTS_KEPT;
    if (is_kept) {
        request->next_free = pool->free;
        pool->free = request;
        pool->free_count++;
    }
    pthread_mutex_unlock(&pool->lock);
    if (!is_kept) free(request);
}
