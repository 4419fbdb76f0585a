/*
 * delay.c: what can be asked of delay groups, beside publishing to them.
 *
 * Each call asks meta where delay groups are. One that names a message goes to the group that has it.
 * Handles are of one group; an id is asked for at one group after the other where none is said.
 */
#include <string.h>

#include "client.h"

enum {
    LIST_PAGE = 500
};

/* A call to one group. */
struct asking {
    struct qmq_client *client;
    unsigned op;
    const ProtobufCMessage *header;
    void *context;
    /* With the answer; false: enough. */
    bool (*each)(void *context, const char *group, const ProtobufCMessage *header);
    bool is_over;
};

struct list {
    Qmq__Wire__DelayListRequest request;
    qmq_delayed_fn *each;
    void *context;
    size_t count; /* of the last page */
    bool is_over;
};

struct histogram {
    uint64_t *from_ms;
    uint64_t *counts;
    uint32_t count;
    uint64_t *ret_before;
    uint64_t *ret_after;
};

struct lag {
    qmq_delay_lag_fn *each;
    void *context;
};

static enum q_err find_groups(struct qmq_client *client, struct route *ret_route);
static enum q_err ask_one(struct asking *asking, struct broker *group);
static enum q_err ask_all(struct asking *asking);
static enum q_err ask_owner(struct asking *asking, const struct qmq_delay_name *name);
static bool tell_message(
    const char *group, const Qmq__Wire__DelayMessage *message, qmq_delayed_fn *each, void *context);

static enum q_err
find_groups(struct qmq_client *client, struct route *ret_route)
{
    struct qnet_buffer *buffer;
    struct call_waiter waiter;
    Q_TRY(route_build(ROUTE_OF_DELAY, &buffer));
    call_waiter_init(&waiter, buffer, client->timeout_ms);
    Q_TRY(call_wait(&waiter, link_submit(client->meta, &waiter.call), &buffer));
    enum q_err err = route_read(client, buffer, ret_route);
    if (err != Q_NO_ROUTE) return err;
    return Q_FAIL(
        Q_NO_ROUTE, .what = q_text("meta %s knows no delay group that is alive", client->meta_url),
        .hint = "start qmq-delay, or a qmqd with role delay");
}

static enum q_err
ask_one(struct asking *asking, struct broker *group)
{
    struct answer answer;
    Q_TRY(broker_call(group, asking->op, asking->header, asking->client->timeout_ms, &answer));
    asking->is_over = !asking->each(asking->context, group->group, answer.header);
    answer_close(&answer);
    return Q_OK;
}

static enum q_err
ask_all(struct asking *asking)
{
    struct route route;
    Q_TRY(find_groups(asking->client, &route));
    for (uint32_t i = 0; i < route.count && !asking->is_over; i++)
        Q_TRY(ask_one(asking, route.brokers[i]));
    return Q_OK;
}

static enum q_err
ask_owner(struct asking *asking, const struct qmq_delay_name *name)
{
    const char *group = name->delay_group;
    if (!group && !name->by_id)
        return Q_FAIL(
            Q_INVALID, .what = "a handle of a delayed message without its delay group",
            .hint = "a handle is due time, sequence and delay group, as the outcome of its publish "
                    "tells them");
    struct route route;
    Q_TRY(find_groups(asking->client, &route));
    enum q_err err = Q_UNAVAILABLE;
    for (uint32_t i = 0; i < route.count; i++) {
        if (group && strcmp(route.brokers[i]->group, group) != 0) continue;
        err = ask_one(asking, route.brokers[i]);
        if (err != Q_NOT_FOUND) return err;
    }
    if (err == Q_NOT_FOUND) return err;
    return Q_FAIL(
        err, .what = q_text("no delay group \"%s\" is alive", group),
        .hint = "start it, or check the name");
}

static Qmq__Wire__DelayName
name_of(const struct qmq_delay_name *name)
{
    Qmq__Wire__DelayName out = QMQ__WIRE__DELAY_NAME__INIT;
    out.due_ms = name->due_ms;
    out.sequence = name->sequence;
    out.by_id = name->by_id;
    out.id_time_ms = name->id.time_ms;
    out.id_producer = name->id.producer;
    out.id_counter = name->id.counter;
    return out;
}

static bool
on_cancelled(void *context, const char *group, const ProtobufCMessage *header)
{
    (void)context;
    (void)group;
    (void)header;
    return false;
}

int
qmq_delay_cancel(struct qmq_client *client, const struct qmq_delay_name *name)
{
    Qmq__Wire__DelayName wanted = name_of(name);
    Qmq__Wire__DelayNameRequest request = QMQ__WIRE__DELAY_NAME_REQUEST__INIT;
    request.name = &wanted;
    struct asking asking = {
        .client = client,
        .op = QPROTO_DELAY_CANCEL,
        .header = &request.base,
        .each = on_cancelled,
    };
    return ask_owner(&asking, name);
}

static bool
on_rescheduled(void *context, const char *group, const ProtobufCMessage *header)
{
    struct qmq_delay_name *ret_name = context;
    ret_name->delay_group = group;
    ret_name->sequence = ((const Qmq__Wire__DelayRescheduleAnswer *)header)->sequence;
    return false;
}

int
qmq_delay_reschedule(
    struct qmq_client *client,
    const struct qmq_delay_name *name,
    uint64_t due_ms,
    struct qmq_delay_name *ret_name)
{
    struct qmq_delay_name moved = { .due_ms = due_ms, .id = name->id };
    Qmq__Wire__DelayName wanted = name_of(name);
    Qmq__Wire__DelayRescheduleRequest request = QMQ__WIRE__DELAY_RESCHEDULE_REQUEST__INIT;
    request.name = &wanted;
    request.due_ms = due_ms;
    struct asking asking = {
        .client = client,
        .op = QPROTO_DELAY_RESCHEDULE,
        .header = &request.base,
        .context = &moved,
        .each = on_rescheduled,
    };
    enum q_err err = ask_owner(&asking, name);
    if (err == Q_OK && ret_name) *ret_name = moved;
    return err;
}

/* --- Telling. */

static bool
tell_message(
    const char *group, const Qmq__Wire__DelayMessage *message, qmq_delayed_fn *each, void *context)
{
    const struct qmq_delayed delayed = {
        .delay_group = group,
        .due_ms = message->due_ms,
        .sequence = message->sequence,
        .id = { message->id_time_ms, message->id_producer, message->id_counter },
        .subject = message->subject,
        .stored_ms = message->stored_ms,
        .size = message->size,
        .being_delivered = message->being_delivered,
        .broker_group = message->broker_group,
        .refused = message->refused,
        .refused_name = message->refused == Q_OK ? "" : q_err_name((enum q_err)message->refused),
    };
    return each(context, &delayed);
}

static bool
on_shown(void *context, const char *group, const ProtobufCMessage *header)
{
    struct list *list = context;
    (void)tell_message(group, (const Qmq__Wire__DelayMessage *)header, list->each, list->context);
    return false;
}

int
qmq_delay_show(
    struct qmq_client *client,
    const struct qmq_delay_name *name,
    qmq_delayed_fn *each,
    void *context)
{
    Qmq__Wire__DelayName wanted = name_of(name);
    Qmq__Wire__DelayNameRequest request = QMQ__WIRE__DELAY_NAME_REQUEST__INIT;
    struct list list = { .each = each, .context = context };
    request.name = &wanted;
    struct asking asking = {
        .client = client,
        .op = QPROTO_DELAY_SHOW,
        .header = &request.base,
        .context = &list,
        .each = on_shown,
    };
    return ask_owner(&asking, name);
}

static bool
on_listed(void *context, const char *group, const ProtobufCMessage *header)
{
    struct list *list = context;
    const Qmq__Wire__DelayListAnswer *answer = (const Qmq__Wire__DelayListAnswer *)header;
    list->count = answer->n_messages;
    for (size_t i = 0; i < answer->n_messages && !list->is_over; i++) {
        const Qmq__Wire__DelayMessage *message = answer->messages[i];
        list->is_over = !tell_message(group, message, list->each, list->context);
        list->request.from_ms = message->due_ms;
        list->request.from_sequence = message->sequence + 1;
    }
    return !list->is_over;
}

int
qmq_delay_list(
    struct qmq_client *client,
    uint64_t from_ms,
    uint64_t to_ms,
    qmq_delayed_fn *each,
    void *context)
{
    struct route route;
    Q_TRY(find_groups(client, &route));
    struct list list = { .each = each, .context = context };
    struct asking asking = {
        .client = client,
        .op = QPROTO_DELAY_LIST,
        .header = &list.request.base,
        .context = &list,
        .each = on_listed,
    };
    for (uint32_t i = 0; i < route.count && !list.is_over; i++) {
        qmq__wire__delay_list_request__init(&list.request);
        list.request.from_ms = from_ms;
        list.request.to_ms = to_ms;
        list.request.messages_max = LIST_PAGE;
        do {
            Q_TRY(ask_one(&asking, route.brokers[i]));
        } while (list.count == LIST_PAGE && !list.is_over);
    }
    return Q_OK;
}

static bool
on_histogram(void *context, const char *group, const ProtobufCMessage *header)
{
    (void)group;
    struct histogram *histogram = context;
    const Qmq__Wire__DelayHistogramAnswer *answer = (const Qmq__Wire__DelayHistogramAnswer *)header;
    *histogram->from_ms = answer->from_ms;
    *histogram->ret_before += answer->before;
    *histogram->ret_after += answer->after;
    for (size_t i = 0; i < answer->n_counts && i < histogram->count; i++)
        histogram->counts[i] += answer->counts[i];
    return true;
}

int
qmq_delay_histogram(
    struct qmq_client *client,
    uint64_t *from_ms,
    uint64_t width_ms,
    uint64_t *counts,
    uint32_t count,
    uint64_t *ret_before,
    uint64_t *ret_after)
{
    struct histogram histogram = { from_ms, counts, count, ret_before, ret_after };
    Qmq__Wire__DelayHistogramRequest request = QMQ__WIRE__DELAY_HISTOGRAM_REQUEST__INIT;
    /* All groups count from one time. */
    request.from_ms = *from_ms != 0 ? *from_ms : q_clock_wall_ms(client->clock);
    request.width_ms = width_ms;
    request.count = count;
    memset(counts, 0, count * sizeof(counts[0]));
    *ret_before = 0;
    *ret_after = 0;
    struct asking asking = {
        .client = client,
        .op = QPROTO_DELAY_HISTOGRAM,
        .header = &request.base,
        .context = &histogram,
        .each = on_histogram,
    };
    return ask_all(&asking);
}

static bool
on_lag(void *context, const char *group, const ProtobufCMessage *header)
{
    const struct lag *lag = context;
    const Qmq__Wire__DelayLagAnswer *answer = (const Qmq__Wire__DelayLagAnswer *)header;
    struct qmq_delay_lag told = {
        .delay_group = group,
        .pending = answer->pending,
        .overdue = answer->overdue,
        .oldest_due_ms = answer->oldest_due_ms,
        .open = answer->open,
        .accepted = answer->accepted,
        .delivered = answer->delivered,
        .cancelled = answer->cancelled,
        .damaged = answer->damaged,
        .late_max_ms = answer->late_max_ms,
        .refused = answer->refused,
        .maybe_twice = answer->maybe_twice,
        .clock_off_ms = answer->clock_off_ms,
    };
    for (size_t i = 0; i < answer->n_groups; i++)
        told.failing += answer->groups[i]->failing ? 1 : 0;
    lag->each(lag->context, &told);
    return true;
}

int
qmq_delay_lag(struct qmq_client *client, qmq_delay_lag_fn *each, void *context)
{
    Qmq__Wire__Empty request = QMQ__WIRE__EMPTY__INIT;
    struct lag lag = { each, context };
    struct asking asking = {
        .client = client,
        .op = QPROTO_DELAY_LAG,
        .header = &request.base,
        .context = &lag,
        .each = on_lag,
    };
    return ask_all(&asking);
}
