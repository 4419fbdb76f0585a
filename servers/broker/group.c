/*
 * group.c: groups as a whole: change one, list them, tell how far one is.
 */
#include "broker/request.h"

enum {
    GROUPS_PAGE = 256,   /* of one answer: names as long as they may be still fit a header */
    CONSUMERS_MAX = 1000 /* the same */
};

static enum q_err control_on_net(
    struct broker_request *request, const ProtobufCMessage *header, struct q_bytes payload);
static enum q_err control_on_answer(
    struct broker_request *request, struct qnet_buffer **ret_answer);
static enum q_err groups_on_net(
    struct broker_request *request, const ProtobufCMessage *header, struct q_bytes payload);
static enum q_err groups_on_answer(struct broker_request *request, struct qnet_buffer **ret_answer);
static enum q_err lag_on_net(
    struct broker_request *request, const ProtobufCMessage *header, struct q_bytes payload);
static enum q_err lag_on_answer(struct broker_request *request, struct qnet_buffer **ret_answer);
static enum q_err read_settings(
    const Qmq__Wire__GroupSettings *header, struct qlog_group_settings *ret_settings);
static void write_settings(
    const struct qlog_group_settings *settings, Qmq__Wire__GroupSettings *header);
static enum q_err write_consumers(
    struct broker_request *request, const struct qlog_lag *lag, Qmq__Wire__LagAnswer *answer);

const struct broker_route broker_control_route = {
    .op = QPROTO_GROUP_CONTROL,
    .kind = QLOG_CONTROL,
    .on_net = control_on_net,
    .on_answer = control_on_answer,
};

const struct broker_route broker_groups_route = {
    .op = QPROTO_GROUP_LIST,
    .kind = QLOG_GROUPS,
    .on_net = groups_on_net,
    .on_answer = groups_on_answer,
};

const struct broker_route broker_lag_route = {
    .op = QPROTO_GROUP_LAG,
    .kind = QLOG_LAG,
    .on_net = lag_on_net,
    .on_answer = lag_on_answer,
};

/* The wire's numbers are the store's. */
_Static_assert(QLOG_CONTROL_SETTINGS == 0 && QLOG_CONTROL_DELETE == 6, "docs/protocol.md");

/* --- Control. */

static enum q_err
control_on_net(
    struct broker_request *request, const ProtobufCMessage *any_header, struct q_bytes payload)
{
    (void)payload;
    const Qmq__Wire__ControlRequest *header = (const Qmq__Wire__ControlRequest *)any_header;
    struct qlog_control *control = &request->store.control;

    Q_TRY(qproto_check_read_subject(header->subject));
    Q_TRY(qproto_check_name("group", header->group, QPROTO_GROUP_MAX));
    if (header->kind > QLOG_CONTROL_DELETE)
        return Q_FAIL(Q_INVALID, .what = q_text("there is no change %u to a group", header->kind));
    control->subject = q_bytes_from_text(header->subject);
    control->group = q_bytes_from_text(header->group);
    control->kind = (enum qlog_control_kind)header->kind;
    control->preview = header->preview;
    if (header->settings) Q_TRY(read_settings(header->settings, &control->settings));
    Q_TRY(broker_read_start(header->start, &control->start));
    control->at = header->start_at;
    if (header->range)
        control->range = (struct qlog_range){ header->range->first, header->range->last };
    return Q_OK;
}

static enum q_err
read_settings(const Qmq__Wire__GroupSettings *header, struct qlog_group_settings *ret_settings)
{
    if (header->n_backoff_ms > QLOG_BACKOFF_MAX)
        return Q_FAIL(
            Q_TOO_BIG,
            .what = q_text(
                "%zu steps of back-off, at most %d fit", header->n_backoff_ms, QLOG_BACKOFF_MAX));
    *ret_settings = (struct qlog_group_settings){
        .strict = header->strict,
        .ack_sync = header->ack_sync,
        .attempts_max = header->attempts_max,
        .pending_max = header->pending_max,
        .filter_keep_ms = header->filter_keep_ms,
        .backoff_count = (uint32_t)header->n_backoff_ms,
    };
    for (size_t i = 0; i < header->n_backoff_ms; i++)
        ret_settings->backoff_ms[i] = header->backoff_ms[i];
    return Q_OK;
}

static enum q_err
control_on_answer(struct broker_request *request, struct qnet_buffer **ret_answer)
{
    const struct qlog_control *control = &request->store.control;
    Qmq__Wire__ControlAnswer answer = QMQ__WIRE__CONTROL_ANSWER__INIT;
    answer.epoch = control->epoch;
    answer.cursor = control->cursor;
    answer.affected = control->affected;
    return broker_build_answer(request, &answer.base, ret_answer);
}

/* --- The list. */

static enum q_err
groups_on_net(
    struct broker_request *request, const ProtobufCMessage *any_header, struct q_bytes payload)
{
    (void)payload;
    const Qmq__Wire__GroupsRequest *header = (const Qmq__Wire__GroupsRequest *)any_header;
    struct qlog_groups *groups = &request->store.groups;

    if (*header->subject) Q_TRY(qproto_check_read_subject(header->subject));
    groups->subject = q_bytes_from_text(header->subject);
    groups->from = header->from;
    groups->groups_max = GROUPS_PAGE;
    groups->groups = broker_request_array(request, GROUPS_PAGE, sizeof(*groups->groups));
    return groups->groups ? Q_OK : Q_FAIL(Q_E_NOMEM);
}

static enum q_err
groups_on_answer(struct broker_request *request, struct qnet_buffer **ret_answer)
{
    const struct qlog_groups *groups = &request->store.groups;
    size_t count = groups->group_count;
    Qmq__Wire__GroupInfo *infos = broker_request_array(request, count + 1, sizeof(*infos));
    Qmq__Wire__GroupInfo **pointers = broker_request_array(request, count + 1, sizeof(void *));
    if (!infos || !pointers) return Q_FAIL(Q_E_NOMEM);
    for (size_t i = 0; i < count; i++) {
        struct qlog_group_info *group = &groups->groups[i];
        qmq__wire__group_info__init(&infos[i]);
        infos[i].subject = group->subject;
        infos[i].group = group->name;
        infos[i].broadcast = group->broadcast;
        infos[i].paused = group->paused;
        infos[i].members = group->members;
        infos[i].cursor = group->cursor;
        infos[i].waiting = group->waiting;
        infos[i].pending = group->pending;
        infos[i].in_flight = group->in_flight;
        pointers[i] = &infos[i];
    }
    Qmq__Wire__GroupsAnswer answer = QMQ__WIRE__GROUPS_ANSWER__INIT;
    answer.n_groups = count;
    answer.groups = pointers;
    answer.next = groups->next;
    return broker_build_answer(request, &answer.base, ret_answer);
}

/* --- Lag. */

static enum q_err
lag_on_net(
    struct broker_request *request, const ProtobufCMessage *any_header, struct q_bytes payload)
{
    (void)payload;
    const Qmq__Wire__LagRequest *header = (const Qmq__Wire__LagRequest *)any_header;
    struct qlog_lag *lag = &request->store.lag;

    Q_TRY(qproto_check_read_subject(header->subject));
    Q_TRY(qproto_check_name("group", header->group, QPROTO_GROUP_MAX));
    lag->subject = q_bytes_from_text(header->subject);
    lag->group = q_bytes_from_text(header->group);
    lag->consumers_max = CONSUMERS_MAX;
    lag->consumers = broker_request_array(request, CONSUMERS_MAX, sizeof(*lag->consumers));
    return lag->consumers ? Q_OK : Q_FAIL(Q_E_NOMEM);
}

static enum q_err
lag_on_answer(struct broker_request *request, struct qnet_buffer **ret_answer)
{
    const struct qlog_lag *lag = &request->store.lag;
    Qmq__Wire__GroupSettings settings = QMQ__WIRE__GROUP_SETTINGS__INIT;
    write_settings(&lag->settings, &settings);
    Qmq__Wire__LagAnswer answer = QMQ__WIRE__LAG_ANSWER__INIT;
    answer.settings = &settings;
    answer.broadcast = lag->broadcast;
    answer.paused = lag->paused;
    answer.epoch = lag->epoch;
    answer.cursor = lag->cursor;
    answer.end = lag->end;
    answer.ready = lag->ready;
    answer.waiting = lag->waiting;
    answer.in_flight = lag->in_flight;
    answer.pending_retry = lag->pending_retry;
    answer.pending_released = lag->pending_released;
    answer.pending_key = lag->pending_key;
    answer.pending_filter = lag->pending_filter;
    answer.pending_dying = lag->pending_dying;
    answer.dead = lag->dead;
    answer.expired = lag->expired;
    answer.skipped = lag->skipped;
    answer.has_oldest = lag->oldest != UINT64_MAX;
    answer.oldest = answer.has_oldest ? lag->oldest : 0;
    answer.oldest_ms = lag->oldest_ms;
    answer.held = (uint32_t)lag->held;
    answer.held_key = lag->held_key;
    answer.held_sequence = lag->held_sequence;
    answer.members = lag->member_count;
    answer.filters = lag->filter_count;
    answer.consumer_count = lag->consumer_count;
    Q_TRY(write_consumers(request, lag, &answer));
    return broker_build_answer(request, &answer.base, ret_answer);
}

/* The header points into the settings. */
static void
write_settings(const struct qlog_group_settings *settings, Qmq__Wire__GroupSettings *header)
{
    header->strict = settings->strict;
    header->ack_sync = settings->ack_sync;
    header->attempts_max = settings->attempts_max;
    header->pending_max = settings->pending_max;
    header->filter_keep_ms = settings->filter_keep_ms;
    header->n_backoff_ms = settings->backoff_count;
    header->backoff_ms = (uint32_t *)settings->backoff_ms;
}

static enum q_err
write_consumers(
    struct broker_request *request, const struct qlog_lag *lag, Qmq__Wire__LagAnswer *answer)
{
    size_t count = q_min_u64(lag->consumer_count, lag->consumers_max);
    Qmq__Wire__LagConsumer *consumers =
        broker_request_array(request, count + 1, sizeof(*consumers));
    Qmq__Wire__LagConsumer **pointers = broker_request_array(request, count + 1, sizeof(void *));
    if (!consumers || !pointers) return Q_FAIL(Q_E_NOMEM);
    for (size_t i = 0; i < count; i++) {
        struct qlog_lag_consumer *consumer = &lag->consumers[i];
        qmq__wire__lag_consumer__init(&consumers[i]);
        consumers[i].consumer = consumer->name;
        consumers[i].alive = consumer->alive;
        consumers[i].parked = consumer->parked;
        consumers[i].in_flight = consumer->in_flight;
        consumers[i].in_flight_bytes = consumer->in_flight_bytes;
        consumers[i].last_seen_ms = consumer->last_seen_ms;
        consumers[i].handed_out = consumer->handed_out;
        consumers[i].acked = consumer->acked;
        pointers[i] = &consumers[i];
    }
    answer->n_consumers = count;
    answer->consumers = pointers;
    return Q_OK;
}
