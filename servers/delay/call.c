#include "delay/call.h"

#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbatch/batch.h>

#include "common/answer.h"

struct delay_call {
    struct delay *delay;
    const struct call_kind *kind;
    struct qnet_call *call;
    size_t publish_bytes;
    void *memory; /* arrays of the request */
    union {
        struct qlog_delay_request any;
        struct qlog_delay_publish publish;
        struct qlog_delay_cancel cancel;
        struct qlog_delay_reschedule reschedule;
        struct qlog_delay_show show;
        struct qlog_delay_list list;
        struct qlog_delay_histogram histogram;
        struct qlog_delay_lag lag;
    } store;
    struct qproto_arena arena;
};

struct call_kind {
    unsigned op;
    enum qlog_delay_kind kind;
    /* NET: check the header, fill the store's request. */
    enum q_err (*on_net)(
        struct delay_call *call, const ProtobufCMessage *header, struct q_bytes payload);
    /* STORE, after it said Q_OK. */
    void (*on_answer)(struct delay_call *call);
};

static void delay_on_call(
    void *context,
    const struct srv_op *op,
    struct qnet_call *call,
    const struct qproto_message *message);
static enum q_err receive(struct delay_call *call, const struct qproto_message *message);
static void on_done(struct qlog_delay_request *request, enum q_err err);
static void call_free(struct delay_call *call);
static enum q_err publish_on_net(
    struct delay_call *call, const ProtobufCMessage *header, struct q_bytes payload);
static enum q_err refuse_order_keys(const struct qlog_publish *publish);
static void publish_on_answer(struct delay_call *call);
static enum q_err cancel_on_net(
    struct delay_call *call, const ProtobufCMessage *header, struct q_bytes payload);
static void cancel_on_answer(struct delay_call *call);
static enum q_err reschedule_on_net(
    struct delay_call *call, const ProtobufCMessage *header, struct q_bytes payload);
static void reschedule_on_answer(struct delay_call *call);
static enum q_err show_on_net(
    struct delay_call *call, const ProtobufCMessage *header, struct q_bytes payload);
static void show_on_answer(struct delay_call *call);
static enum q_err list_on_net(
    struct delay_call *call, const ProtobufCMessage *header, struct q_bytes payload);
static void list_on_answer(struct delay_call *call);
static enum q_err histogram_on_net(
    struct delay_call *call, const ProtobufCMessage *header, struct q_bytes payload);
static void histogram_on_answer(struct delay_call *call);
static enum q_err lag_on_net(
    struct delay_call *call, const ProtobufCMessage *header, struct q_bytes payload);
static void lag_on_answer(struct delay_call *call);

static const struct call_kind kinds[] = {
    { QPROTO_PUBLISH, QLOG_DELAY_PUBLISH, publish_on_net, publish_on_answer },
    { QPROTO_DELAY_CANCEL, QLOG_DELAY_CANCEL, cancel_on_net, cancel_on_answer },
    { QPROTO_DELAY_RESCHEDULE, QLOG_DELAY_RESCHEDULE, reschedule_on_net, reschedule_on_answer },
    { QPROTO_DELAY_SHOW, QLOG_DELAY_SHOW, show_on_net, show_on_answer },
    { QPROTO_DELAY_LIST, QLOG_DELAY_LIST, list_on_net, list_on_answer },
    { QPROTO_DELAY_HISTOGRAM, QLOG_DELAY_HISTOGRAM, histogram_on_net, histogram_on_answer },
    { QPROTO_DELAY_LAG, QLOG_DELAY_LAG, lag_on_net, lag_on_answer },
};

const struct srv_op delay_ops[] = {
    { QPROTO_PUBLISH, delay_on_call, &kinds[0] },
    { QPROTO_DELAY_CANCEL, delay_on_call, &kinds[1] },
    { QPROTO_DELAY_RESCHEDULE, delay_on_call, &kinds[2] },
    { QPROTO_DELAY_SHOW, delay_on_call, &kinds[3] },
    { QPROTO_DELAY_LIST, delay_on_call, &kinds[4] },
    { QPROTO_DELAY_HISTOGRAM, delay_on_call, &kinds[5] },
    { QPROTO_DELAY_LAG, delay_on_call, &kinds[6] },
};
const size_t delay_op_count = sizeof(delay_ops) / sizeof(delay_ops[0]);

static void
delay_on_call(
    void *context,
    const struct srv_op *op,
    struct qnet_call *net_call,
    const struct qproto_message *message)
{
    struct delay *delay = context;
    enum q_err err = Q_STOPPING;
    /* Whoever has closed the gate knows that every call is in the store or over. */
    bool is_open = srv_gate_enter(&delay->gate);
    if (is_open) {
        struct delay_call *call = NULL;
        err = Q_OK;
        if (atomic_fetch_add(&delay->call_count, 1) >= DELAY_CALLS_MAX)
            err = Q_FAIL(Q_BUSY, .what = q_text("%d calls are under way", DELAY_CALLS_MAX));
        if (err == Q_OK) call = malloc(sizeof(*call));
        if (err == Q_OK && !call) err = Q_FAIL(Q_E_NOMEM);
        if (call) {
            /* Not the arena, of which most calls touch little. */
            memset(call, 0, offsetof(struct delay_call, arena));
            qproto_arena_init(&call->arena);
            call->delay = delay;
            call->kind = op->route;
            call->call = net_call;
            err = receive(call, message);
        }
        if (err != Q_OK) {
            srv_answer_error(net_call, message->op, err);
            if (call)
                call_free(call);
            else
                atomic_fetch_sub(&delay->call_count, 1);
        }
        srv_gate_leave(&delay->gate);
        return;
    }
    srv_answer_error(net_call, message->op, err);
}

/* Q_OK: the store has it. */
static enum q_err
receive(struct delay_call *call, const struct qproto_message *message)
{
    ProtobufCMessage *header;
    Q_TRY(qproto_unpack(
        message->header, qproto_request_descriptor(message->op), &call->arena, &header));
    Q_TRY(call->kind->on_net(call, header, message->payload));
    call->store.any.kind = call->kind->kind;
    call->store.any.done = on_done;
    call->store.any.context = call;
    return delay_store_submit(call->delay->store, &call->store.any);
}

static void
on_done(struct qlog_delay_request *request, enum q_err err)
{
    struct delay_call *call = request->context;
    if (err == Q_OK)
        call->kind->on_answer(call);
    else
        srv_answer_error(call->call, call->kind->op, err);
    call_free(call);
}

static void
call_free(struct delay_call *call)
{
    struct delay *delay = call->delay;
    atomic_fetch_sub(&delay->publish_bytes, call->publish_bytes);
    qproto_arena_reset(&call->arena);
    free(call->memory);
    free(call);
    /* Last: whoever waits for no calls frees the role then. */
    atomic_fetch_sub(&delay->call_count, 1);
}

static void *
array(struct delay_call *call, size_t count, size_t size)
{
    /* Counts come from checked headers: far below where this could overflow. */
    ProtobufCAllocator *allocator = &call->arena.allocator;
    return allocator->alloc(allocator->allocator_data, count * size);
}

/* --- PUBLISH */

static enum q_err
publish_on_net(struct delay_call *call, const ProtobufCMessage *base, struct q_bytes payload)
{
    const Qmq__Wire__PublishRequest *header = (const Qmq__Wire__PublishRequest *)base;
    struct qlog_publish *publish = &call->store.publish.publish;
    size_t count = header->n_subjects;
    if (count == 0 || count > QLOG_REQUEST_BATCHES_MAX)
        return Q_FAIL(
            count == 0 ? Q_INVALID : Q_TOO_BIG,
            .what = q_text(
                "a request has 1 to %d batches, this one %zu", QLOG_REQUEST_BATCHES_MAX, count));
    struct q_bytes *subjects = array(call, count, sizeof(*subjects));
    uint64_t *first_sequences = array(call, count, sizeof(*first_sequences));
    if (!subjects || !first_sequences) return Q_FAIL(Q_E_NOMEM);
    for (size_t i = 0; i < count; i++) {
        Q_TRY(qproto_check_name("subject", header->subjects[i], QPROTO_SUBJECT_MAX));
        subjects[i] = q_bytes_from_text(header->subjects[i]);
    }
    if (header->envelopes_length > payload.size)
        return Q_FAIL(
            Q_E_PROTOCOL, .what = q_text(
                              "%u bytes of envelopes are said, the payload has %zu",
                              header->envelopes_length, payload.size));
    size_t before = atomic_fetch_add(&call->delay->publish_bytes, payload.size);
    call->publish_bytes = payload.size;
    if (before + payload.size > DELAY_PUBLISH_BYTES_MAX)
        return Q_FAIL(Q_BUSY, .what = q_text("%zu bytes wait to be stored", before));

    /* The payload is part of the call's bytes, which are ours to write to until it is answered. */
    size_t start = (size_t)(payload.data - qnet_call_request(call->call).data);
    publish->envelopes = qnet_call_request_data(call->call) + start;
    publish->envelopes_size = header->envelopes_length;
    publish->payloads = publish->envelopes + header->envelopes_length;
    publish->payloads_size = (uint32_t)(payload.size - header->envelopes_length);
    publish->subjects = subjects;
    publish->batch_count = (uint32_t)count;
    publish->ret_first_sequences = first_sequences;
    publish->mode = (enum qlog_mode)header->mode;
    publish->settled = header->settled_below;
    publish->again = header->again;
    Q_TRY(qlog_publish_check(publish));
    return refuse_order_keys(publish);
}

/*
 * It would go to whichever broker group there is, and be handed out beside its key's other messages, which
 * are at the home of the key.
 */
static enum q_err
refuse_order_keys(const struct qlog_publish *publish)
{
    struct q_bytes rest = q_bytes_from(publish->envelopes, publish->envelopes_size);
    for (uint32_t i = 0; i < publish->batch_count; i++) {
        struct qbatch batch;
        Q_TRY(qbatch_open_trusted(rest, &batch)); /* it was checked just before */
        if (qbatch_is_ordered(&batch))
            return Q_FAIL(
                Q_INVALID, .what = "a delayed message can't have an order key",
                .hint = "leave the key out, or send the message when it is due");
        rest = q_bytes_from(rest.data + batch.envelope_length, rest.size - batch.envelope_length);
    }
    return Q_OK;
}

static void
publish_on_answer(struct delay_call *call)
{
    const struct qlog_publish *publish = &call->store.publish.publish;
    Qmq__Wire__PublishAnswer answer = QMQ__WIRE__PUBLISH_ANSWER__INIT;
    answer.n_first_sequences = publish->batch_count;
    answer.first_sequences = publish->ret_first_sequences;
    answer.mode = publish->achieved;
    answer.duplicate = publish->duplicate;
    srv_answer(call->call, call->kind->op, &answer.base);
}

/* --- One message. */

static enum q_err
read_name(const Qmq__Wire__DelayName *name, struct qlog_delay_name *ret_name)
{
    if (!name) return Q_FAIL(Q_INVALID, .what = "no message is named");
    *ret_name = (struct qlog_delay_name){
        .due_ms = name->due_ms,
        .sequence = name->by_id ? QLOG_DELAY_BY_ID : name->sequence,
        .id_time_ms = name->id_time_ms,
        .id_producer = name->id_producer,
        .id_counter = name->id_counter,
    };
    return Q_OK;
}

static enum q_err
cancel_on_net(struct delay_call *call, const ProtobufCMessage *base, struct q_bytes payload)
{
    (void)payload;
    const Qmq__Wire__DelayNameRequest *header = (const Qmq__Wire__DelayNameRequest *)base;
    return read_name(header->name, &call->store.cancel.name);
}

static void
cancel_on_answer(struct delay_call *call)
{
    Qmq__Wire__Empty answer = QMQ__WIRE__EMPTY__INIT;
    srv_answer(call->call, call->kind->op, &answer.base);
}

static enum q_err
reschedule_on_net(struct delay_call *call, const ProtobufCMessage *base, struct q_bytes payload)
{
    (void)payload;
    const Qmq__Wire__DelayRescheduleRequest *header =
        (const Qmq__Wire__DelayRescheduleRequest *)base;
    call->store.reschedule.due_ms = header->due_ms;
    if (header->due_ms == 0) return Q_FAIL(Q_INVALID, .what = "no new due time");
    return read_name(header->name, &call->store.reschedule.name);
}

static void
reschedule_on_answer(struct delay_call *call)
{
    Qmq__Wire__DelayRescheduleAnswer answer = QMQ__WIRE__DELAY_RESCHEDULE_ANSWER__INIT;
    answer.sequence = call->store.reschedule.ret_sequence;
    srv_answer(call->call, call->kind->op, &answer.base);
}

static enum q_err
show_on_net(struct delay_call *call, const ProtobufCMessage *base, struct q_bytes payload)
{
    (void)payload;
    const Qmq__Wire__DelayNameRequest *header = (const Qmq__Wire__DelayNameRequest *)base;
    return read_name(header->name, &call->store.show.name);
}

static void
fill_message(Qmq__Wire__DelayMessage *out, struct qlog_delay_message *message)
{
    qmq__wire__delay_message__init(out);
    out->due_ms = message->due_ms;
    out->sequence = message->sequence;
    out->stored_ms = message->stored_ms;
    out->id_time_ms = message->id_time_ms;
    out->id_producer = message->id_producer;
    out->id_counter = message->id_counter;
    out->size = message->size;
    out->being_delivered = message->being_delivered;
    out->broker_group = message->broker_group;
    out->refused = message->refused;
    out->subject = message->subject;
}

static void
show_on_answer(struct delay_call *call)
{
    Qmq__Wire__DelayMessage answer;
    fill_message(&answer, &call->store.show.ret_message);
    srv_answer(call->call, call->kind->op, &answer.base);
}

/* --- Many. */

static enum q_err
list_on_net(struct delay_call *call, const ProtobufCMessage *base, struct q_bytes payload)
{
    (void)payload;
    const Qmq__Wire__DelayListRequest *header = (const Qmq__Wire__DelayListRequest *)base;
    struct qlog_delay_list *list = &call->store.list;
    list->from_ms = header->from_ms;
    list->from_sequence = header->from_sequence;
    list->to_ms = header->to_ms == 0 ? UINT64_MAX : header->to_ms;
    list->messages_max = header->messages_max;
    if (list->messages_max == 0 || list->messages_max > DELAY_LIST_MAX)
        list->messages_max = DELAY_LIST_MAX;
    call->memory = calloc(list->messages_max, sizeof(list->messages[0]));
    if (!call->memory) return Q_FAIL(Q_E_NOMEM);
    list->messages = call->memory;
    return Q_OK;
}

static void
list_on_answer(struct delay_call *call)
{
    struct qlog_delay_list *list = &call->store.list;
    size_t count = list->ret_count;
    Qmq__Wire__DelayMessage *messages = array(call, count + 1, sizeof(*messages));
    Qmq__Wire__DelayMessage **pointers = array(call, count + 1, sizeof(*pointers));
    if (!messages || !pointers) {
        srv_answer_error(call->call, call->kind->op, Q_FAIL(Q_E_NOMEM));
        return;
    }
    for (size_t i = 0; i < count; i++) {
        fill_message(&messages[i], &list->messages[i]);
        pointers[i] = &messages[i];
    }
    Qmq__Wire__DelayListAnswer answer = QMQ__WIRE__DELAY_LIST_ANSWER__INIT;
    answer.n_messages = count;
    answer.messages = pointers;
    srv_answer(call->call, call->kind->op, &answer.base);
}

static enum q_err
histogram_on_net(struct delay_call *call, const ProtobufCMessage *base, struct q_bytes payload)
{
    (void)payload;
    const Qmq__Wire__DelayHistogramRequest *header = (const Qmq__Wire__DelayHistogramRequest *)base;
    struct qlog_delay_histogram *histogram = &call->store.histogram;
    if (header->width_ms == 0 || header->count == 0 || header->count > DELAY_BUCKETS_MAX)
        return Q_FAIL(
            Q_INVALID, .what = q_text("a histogram has 1 to %d stretches", DELAY_BUCKETS_MAX));
    histogram->from_ms = header->from_ms;
    histogram->width_ms = header->width_ms;
    histogram->count_max = header->count;
    call->memory = calloc(header->count, sizeof(histogram->counts[0]));
    if (!call->memory) return Q_FAIL(Q_E_NOMEM);
    histogram->counts = call->memory;
    return Q_OK;
}

static void
histogram_on_answer(struct delay_call *call)
{
    const struct qlog_delay_histogram *histogram = &call->store.histogram;
    Qmq__Wire__DelayHistogramAnswer answer = QMQ__WIRE__DELAY_HISTOGRAM_ANSWER__INIT;
    answer.from_ms = histogram->ret_from_ms;
    answer.n_counts = histogram->count_max;
    answer.counts = histogram->counts;
    answer.before = histogram->ret_before;
    answer.after = histogram->ret_after;
    srv_answer(call->call, call->kind->op, &answer.base);
}

static enum q_err
lag_on_net(struct delay_call *call, const ProtobufCMessage *base, struct q_bytes payload)
{
    (void)base;
    (void)payload;
    struct qlog_delay_lag *lag = &call->store.lag;
    call->memory = calloc(DELAY_GROUPS_MAX, sizeof(lag->groups[0]));
    if (!call->memory) return Q_FAIL(Q_E_NOMEM);
    lag->groups = call->memory;
    lag->groups_max = DELAY_GROUPS_MAX;
    return Q_OK;
}

static void
lag_on_answer(struct delay_call *call)
{
    struct qlog_delay_lag *lag = &call->store.lag;
    Qmq__Wire__DelayGroupState groups[DELAY_GROUPS_MAX];
    Qmq__Wire__DelayGroupState *pointers[DELAY_GROUPS_MAX];
    struct qlog_delay_counters counters;
    delay_store_counters(call->delay->store, &counters);
    for (uint32_t i = 0; i < lag->ret_group_count; i++) {
        qmq__wire__delay_group_state__init(&groups[i]);
        groups[i].broker_group = lag->groups[i].name;
        groups[i].failing = lag->groups[i].failing;
        groups[i].open = lag->groups[i].open;
        groups[i].next_sequence = lag->groups[i].next_sequence;
        pointers[i] = &groups[i];
    }
    Qmq__Wire__DelayLagAnswer answer = QMQ__WIRE__DELAY_LAG_ANSWER__INIT;
    answer.now_ms = lag->ret_now_ms;
    answer.clock_off_ms = lag->ret_clock_off_ms;
    answer.overdue = lag->ret_overdue;
    answer.oldest_due_ms = lag->ret_oldest_due_ms;
    answer.open = lag->ret_open;
    answer.pending = counters.pending;
    answer.accepted = counters.accepted;
    answer.delivered = counters.delivered;
    answer.cancelled = counters.cancelled;
    answer.rescheduled = counters.rescheduled;
    answer.damaged = counters.damaged;
    answer.late_max_ms = counters.late_max_ms;
    answer.refused = lag->ret_refused;
    answer.maybe_twice = counters.maybe_twice;
    answer.n_groups = lag->ret_group_count;
    answer.groups = pointers;
    srv_answer(call->call, call->kind->op, &answer.base);
}
