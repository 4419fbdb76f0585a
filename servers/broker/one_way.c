/*
 * one_way.c: publishes that nobody waits for.
 *
 *   NET     check; keep the call's bytes, give them to the store, answer that they came
 *   STORE   `done` sends the request on
 *   ANSWER  count what became of it; the request is free again
 *
 * What is dropped is counted, and told to nobody by itself: HELLO has the counts. BUSY is answered: who sent it
 * has it still, and may try again. What is under way is bounded apart from other calls, so that these go on
 * when more comes here than the store takes.
 */
#include <qbase/assert.h>

#include "broker/request.h"
#include "broker/store_thread.h"
#include "common/answer.h"

static enum q_err take(
    struct broker *broker, struct qnet_call *call, const struct qproto_message *message);
static enum q_err read_request(
    struct broker_request *request, const struct qproto_message *message);
static enum q_err enter(struct broker_request *request, size_t size);
static void on_done(struct qlog_request *store_request, enum q_err err);
static void finish(struct srv_job *job);
static void count(struct broker *broker, enum q_err err, uint32_t messages);
static void give_back(struct broker_request *request);

void
broker_on_one_way(
    void *context,
    const struct srv_op *op,
    struct qnet_call *call,
    const struct qproto_message *message)
{
    (void)op;
    struct broker *broker = context;
    unsigned number = message->op;
    enum q_err err = Q_STOPPING;
    if (srv_gate_enter(&broker->gate)) {
        err = take(broker, call, message);
        srv_gate_leave(&broker->gate);
    }

    if (err != Q_OK) {
        srv_answer_error(call, number, err);
        return;
    }
    Qmq__Wire__Empty answer = QMQ__WIRE__EMPTY__INIT;
    srv_answer(call, number, &answer.base);
}

/* Q_OK: the store has it. The call is its caller's in any case, its bytes then are not. */
static enum q_err
take(struct broker *broker, struct qnet_call *call, const struct qproto_message *message)
{
    struct broker_request *request = broker_request_take(broker);
    if (!request)
        return Q_FAIL(Q_BUSY, .what = q_text("%d calls are under way", BROKER_REQUESTS_MAX));
    request->call = call;

    enum q_err err = read_request(request, message);
    bool is_counted = err == Q_OK;
    if (!is_counted) atomic_fetch_add(&broker->one_way.invalid, 1);
    uint32_t messages = request->store.publish.message_count;
    if (is_counted) atomic_fetch_add(&broker->one_way.came, messages);

    if (err == Q_OK) err = enter(request, qnet_call_request(call).size);
    if (err == Q_OK) {
        request->bytes = qnet_call_take_request(call);
        request->call = NULL;
        request->store.any.kind = QLOG_PUBLISH;
        request->store.any.done = on_done;
        request->store.any.context = request;
        err = broker_store_submit(broker->store, &request->store.any);
    }
    if (err == Q_OK) return Q_OK;
    if (is_counted) count(broker, err, messages);
    give_back(request);
    return err;
}

static enum q_err
read_request(struct broker_request *request, const struct qproto_message *message)
{
    ProtobufCMessage *header;
    Q_TRY(qproto_unpack(
        message->header, qproto_request_descriptor(message->op), &request->arena, &header));
    Q_TRY(broker_read_publish(request, header, message->payload));
    if (request->store.publish.sequence == 0) return Q_OK;
    return Q_FAIL(Q_INVALID, .what = "a one-way request has no number", .hint = "");
}

/* Given back with the request. */
static enum q_err
enter(struct broker_request *request, size_t size)
{
    struct broker_one_way *one_way = &request->broker->one_way;
    uint64_t bytes_max = request->broker->options.one_way_bytes_max;
    request->one_way_bytes = (uint32_t)size;
    unsigned requests = atomic_fetch_add(&one_way->requests, 1);
    size_t bytes = atomic_fetch_add(&one_way->bytes, size);
    if (requests < BROKER_ONE_WAY_MAX && bytes + size <= bytes_max) return Q_OK;
    return Q_FAIL(
        Q_BUSY,
        .what = q_text("%u one-way requests of %zu bytes wait to be stored", requests, bytes));
}

/* STORE */
static void
on_done(struct qlog_request *store_request, enum q_err err)
{
    struct broker_request *request = store_request->context;
    request->one_way_err = err;
    request->finish.run = finish;
    enum q_err post_err = srv_worker_post(request->broker->answerer, &request->finish);
    Q_ASSERT(post_err == Q_OK); /* it has room for every request there can be */
}

/* ANSWER */
static void
finish(struct srv_job *job)
{
    struct broker_request *request = q_container_of(job, struct broker_request, finish);
    count(request->broker, request->one_way_err, request->store.publish.message_count);
    give_back(request);
}

static void
count(struct broker *broker, enum q_err err, uint32_t messages)
{
    struct broker_one_way *one_way = &broker->one_way;
    atomic_uint_fast64_t *counter = &one_way->refused;
    if (err == Q_OK) counter = &one_way->stored;
    if (err == Q_BUSY) counter = &one_way->busy;
    if (err == Q_STORAGE_FULL) counter = &one_way->full;
    atomic_fetch_add(counter, messages);
}

static void
give_back(struct broker_request *request)
{
    struct broker_one_way *one_way = &request->broker->one_way;
    if (request->one_way_bytes > 0) {
        atomic_fetch_sub(&one_way->requests, 1);
        atomic_fetch_sub(&one_way->bytes, request->one_way_bytes);
    }
    qnet_buffer_free(request->bytes);
    broker_request_give_back(request);
}

void
broker_on_hello(void *context, Qmq__Wire__HelloAnswer *answer)
{
    struct broker_one_way *one_way = &((struct broker *)context)->one_way;
    answer->one_way_came = atomic_load(&one_way->came);
    answer->one_way_stored = atomic_load(&one_way->stored);
    answer->one_way_busy = atomic_load(&one_way->busy);
    answer->one_way_full = atomic_load(&one_way->full);
    answer->one_way_refused = atomic_load(&one_way->refused);
    answer->one_way_invalid = atomic_load(&one_way->invalid);
}
