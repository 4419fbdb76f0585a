/*
 * group.c: look at groups and change them, on every broker group that has them.
 */
#include "client.h"

enum {
    CONSUMERS_MAX = 2048, /* of one answer; more than a broker sends */
};

struct groups_ask {
    const char *subject;
    qmq_group_fn *each;
    void *context;
};

struct lag_ask {
    const char *subject;
    const char *group;
    qmq_lag_fn *each;
    void *context;
};

struct control_ask {
    const char *subject;
    const char *group;
    const struct qmq_control *control;
    qmq_controlled_fn *each;
    void *context;
};

static enum q_err check_group(const char *subject, const char *group);
static broker_ask_fn ask_groups;
static broker_ask_fn ask_lag;
static void tell_lag(
    const struct broker *broker, const struct lag_ask *ask, const Qmq__Wire__LagAnswer *answer);
static void read_settings(
    const Qmq__Wire__GroupSettings *header, struct qmq_group_settings *settings);
static enum q_err check_control(const struct qmq_control *control);
static broker_ask_fn ask_control;

int
qmq_groups(struct qmq_client *client, const char *subject, qmq_group_fn *each, void *context)
{
    struct groups_ask ask = { .subject = subject, .each = each, .context = context };
    if (subject) {
        enum q_err err = qproto_check_read_subject(subject);
        if (err != Q_OK) return err;
    }
    return brokers_ask(client, NULL, ask_groups, &ask);
}

int
qmq_group_lag(
    struct qmq_client *client,
    const char *subject,
    const char *group,
    qmq_lag_fn *each,
    void *context)
{
    struct lag_ask ask = {
        .subject = subject,
        .group = group,
        .each = each,
        .context = context,
    };
    enum q_err err = check_group(subject, group);
    return err == Q_OK ? brokers_ask(client, NULL, ask_lag, &ask) : err;
}

int
qmq_group_control(
    struct qmq_client *client,
    const char *subject,
    const char *group,
    const struct qmq_control *control,
    qmq_controlled_fn *each,
    void *context)
{
    struct control_ask ask = {
        .subject = subject,
        .group = group,
        .control = control,
        .each = each,
        .context = context,
    };
    enum q_err err = check_group(subject, group);
    if (err == Q_OK) err = check_control(control);
    return err == Q_OK ? brokers_ask(client, control->broker_group, ask_control, &ask) : err;
}

static enum q_err
check_group(const char *subject, const char *group)
{
    Q_TRY(qproto_check_read_subject(subject));
    return qproto_check_name("group", group, QPROTO_GROUP_MAX);
}

/* --- The list. */

static enum q_err
ask_groups(struct broker *broker, void *context)
{
    const struct groups_ask *ask = context;
    Qmq__Wire__GroupsRequest request = QMQ__WIRE__GROUPS_REQUEST__INIT;
    if (ask->subject) request.subject = (char *)ask->subject;
    do {
        struct answer answer;
        Q_TRY(broker_call(
            broker, QPROTO_GROUP_LIST, &request.base, broker->client->timeout_ms, &answer));
        const Qmq__Wire__GroupsAnswer *page = (const Qmq__Wire__GroupsAnswer *)answer.header;
        for (size_t index = 0; index < page->n_groups; index++) {
            const Qmq__Wire__GroupInfo *info = page->groups[index];
            const struct qmq_group_info group = {
                .subject = info->subject,
                .group = info->group,
                .broker_group = broker->group,
                .broadcast = info->broadcast,
                .paused = info->paused,
                .members = info->members,
                .cursor = info->cursor,
                .waiting = info->waiting,
                .pending = info->pending,
                .in_flight = info->in_flight,
            };
            ask->each(ask->context, &group);
        }
        /* Pages go forward, or there is no end to them. */
        request.from = page->next > request.from ? page->next : 0;
        answer_close(&answer);
    } while (request.from != 0);
    return Q_OK;
}

/* --- Lag. */

static enum q_err
ask_lag(struct broker *broker, void *context)
{
    const struct lag_ask *ask = context;
    Qmq__Wire__LagRequest request = QMQ__WIRE__LAG_REQUEST__INIT;
    request.subject = (char *)ask->subject;
    request.group = (char *)ask->group;

    struct answer answer;
    Q_TRY(
        broker_call(broker, QPROTO_GROUP_LAG, &request.base, broker->client->timeout_ms, &answer));
    tell_lag(broker, ask, (const Qmq__Wire__LagAnswer *)answer.header);
    answer_close(&answer);
    return Q_OK;
}

static void
tell_lag(const struct broker *broker, const struct lag_ask *ask, const Qmq__Wire__LagAnswer *answer)
{
    struct qmq_lag_consumer consumers[CONSUMERS_MAX];
    struct qmq_lag lag = {
        .subject = ask->subject,
        .group = ask->group,
        .broker_group = broker->group,
        .broadcast = answer->broadcast,
        .paused = answer->paused,
        .epoch = answer->epoch,
        .cursor = answer->cursor,
        .end = answer->end,
        .ready = answer->ready,
        .waiting = answer->waiting,
        .in_flight = answer->in_flight,
        .pending_retry = answer->pending_retry,
        .pending_released = answer->pending_released,
        .pending_key = answer->pending_key,
        .pending_filter = answer->pending_filter,
        .pending_dying = answer->pending_dying,
        .dead = answer->dead,
        .expired = answer->expired,
        .skipped = answer->skipped,
        .has_oldest = answer->has_oldest,
        .oldest = answer->oldest,
        .oldest_ms = answer->oldest_ms,
        .held = answer->held <= QMQ_HELD_MEMORY ? (enum qmq_held)answer->held : QMQ_HELD_NOT,
        .held_key = answer->held_key,
        .held_sequence = answer->held_sequence,
        .members = answer->members,
        .filters = answer->filters,
        .consumers_known = answer->consumer_count,
        .consumers = consumers,
        .consumer_count = q_min_u64(answer->n_consumers, CONSUMERS_MAX),
    };
    if (answer->settings) read_settings(answer->settings, &lag.settings);
    for (size_t index = 0; index < lag.consumer_count; index++) {
        const Qmq__Wire__LagConsumer *consumer = answer->consumers[index];
        consumers[index] = (struct qmq_lag_consumer){
            .consumer = consumer->consumer,
            .alive = consumer->alive,
            .waiting = consumer->parked,
            .in_flight = consumer->in_flight,
            .in_flight_bytes = consumer->in_flight_bytes,
            .last_seen_ms = consumer->last_seen_ms,
            .handed_out = consumer->handed_out,
            .acked = consumer->acked,
        };
    }
    ask->each(ask->context, &lag);
}

static void
read_settings(const Qmq__Wire__GroupSettings *header, struct qmq_group_settings *settings)
{
    *settings = (struct qmq_group_settings){
        .strict = header->strict,
        .ack_sync = header->ack_sync,
        .attempts_max = header->attempts_max,
        .pending_max = header->pending_max,
        .filter_keep_ms = header->filter_keep_ms,
        .backoff_count = (uint32_t)q_min_u64(header->n_backoff_ms, QMQ_BACKOFF_MAX),
    };
    for (uint32_t index = 0; index < settings->backoff_count; index++)
        settings->backoff_ms[index] = header->backoff_ms[index];
}

const char *
qmq_held_name(enum qmq_held held)
{
    static const char *const names[] = {
        [QMQ_HELD_NOT] = "",        [QMQ_HELD_PAUSED] = "paused",
        [QMQ_HELD_RETRY] = "retry", [QMQ_HELD_RELEASED] = "released",
        [QMQ_HELD_KEY] = "key",     [QMQ_HELD_FILTER] = "filter",
        [QMQ_HELD_DYING] = "dying", [QMQ_HELD_MEMORY] = "memory",
    };
    return (unsigned)held < sizeof(names) / sizeof(names[0]) ? names[held] : "";
}

/* --- Control. */

static enum q_err
check_control(const struct qmq_control *control)
{
    if ((unsigned)control->kind > QMQ_CONTROL_DELETE)
        return Q_FAIL(Q_INVALID, .what = q_text("there is no control %u", (unsigned)control->kind));
    if (control->kind == QMQ_CONTROL_SEEK && control->start == QMQ_START_DEFAULT)
        return Q_FAIL(Q_INVALID, .what = "a seek must say where to go");
    if (control->settings.backoff_count > QMQ_BACKOFF_MAX)
        return Q_FAIL(
            Q_TOO_BIG, .what = q_text(
                           "%u steps of back-off, at most %d fit", control->settings.backoff_count,
                           QMQ_BACKOFF_MAX));
    return Q_OK;
}

static enum q_err
ask_control(struct broker *broker, void *context)
{
    const struct control_ask *ask = context;
    const struct qmq_control *control = ask->control;
    Qmq__Wire__GroupSettings settings = QMQ__WIRE__GROUP_SETTINGS__INIT;
    settings.strict = control->settings.strict;
    settings.ack_sync = control->settings.ack_sync;
    settings.attempts_max = control->settings.attempts_max;
    settings.pending_max = control->settings.pending_max;
    settings.filter_keep_ms = control->settings.filter_keep_ms;
    settings.backoff_ms = (uint32_t *)control->settings.backoff_ms;
    settings.n_backoff_ms = control->settings.backoff_count;
    Qmq__Wire__Range range = QMQ__WIRE__RANGE__INIT;
    range.first = control->first;
    range.last = control->last;
    Qmq__Wire__ControlRequest request = QMQ__WIRE__CONTROL_REQUEST__INIT;
    request.subject = (char *)ask->subject;
    request.group = (char *)ask->group;
    request.kind = (uint32_t)control->kind;
    request.preview = control->preview;
    request.settings = &settings;
    if (control->kind == QMQ_CONTROL_SEEK) request.start = start_number(control->start);
    request.start_at = control->at;
    request.range = &range;

    struct answer answer;
    Q_TRY(broker_call(
        broker, QPROTO_GROUP_CONTROL, &request.base, broker->client->timeout_ms, &answer));
    const Qmq__Wire__ControlAnswer *done = (const Qmq__Wire__ControlAnswer *)answer.header;
    const struct qmq_controlled controlled = {
        .broker_group = broker->group,
        .epoch = done->epoch,
        .cursor = done->cursor,
        .affected = done->affected,
    };
    if (ask->each) ask->each(ask->context, &controlled);
    answer_close(&answer);
    return Q_OK;
}
