/*
 * session.c: a consumer joins a group, shows that it lives, leaves.
 */
#include "broker/request.h"

#include <qbase/clock.h>
#include <qbatch/layout.h>

static enum q_err join_on_net(
    struct broker_request *request, const ProtobufCMessage *header, struct q_bytes payload);
static enum q_err join_on_answer(struct broker_request *request, struct qnet_buffer **ret_answer);
static enum q_err read_tags(const Qmq__Wire__JoinRequest *header, struct qlog_join *join);
static enum q_err session_on_net(
    struct broker_request *request, const ProtobufCMessage *header, struct q_bytes payload);
static enum q_err session_on_answer(
    struct broker_request *request, struct qnet_buffer **ret_answer);

const struct broker_route broker_join_route = {
    .op = QPROTO_JOIN,
    .kind = QLOG_JOIN,
    .on_net = join_on_net,
    .on_answer = join_on_answer,
};

const struct broker_route broker_keep_alive_route = {
    .op = QPROTO_KEEP_ALIVE,
    .kind = QLOG_KEEP_ALIVE,
    .on_net = session_on_net,
    .on_answer = session_on_answer,
};

const struct broker_route broker_leave_route = {
    .op = QPROTO_LEAVE,
    .kind = QLOG_LEAVE,
    .on_net = session_on_net,
    .on_answer = session_on_answer,
};

static enum q_err
join_on_net(
    struct broker_request *request, const ProtobufCMessage *any_header, struct q_bytes payload)
{
    (void)payload;
    const Qmq__Wire__JoinRequest *header = (const Qmq__Wire__JoinRequest *)any_header;
    struct qlog_join *join = &request->store.join;

    Q_TRY(broker_read_consumer(header->subject, header->group, header->consumer, 0, &join->who));
    Q_TRY(read_tags(header, join));
    Q_TRY(broker_read_start(header->start, &join->start));
    if (header->token.len != sizeof(join->token))
        return Q_FAIL(
            Q_INVALID,
            .what = q_text(
                "a session's token of %zu bytes, not %zu", header->token.len, sizeof(join->token)));
    join->start_at = header->start_at;
    join->broadcast = header->broadcast;
    memcpy(join->token, header->token.data, sizeof(join->token));
    return Q_OK;
}

static enum q_err
read_tags(const Qmq__Wire__JoinRequest *header, struct qlog_join *join)
{
    size_t tags_max = sizeof(join->tags) / sizeof(join->tags[0]);
    if (header->n_tags > tags_max)
        return Q_FAIL(
            Q_TOO_BIG,
            .what = q_text("a filter of %zu tags, at most %zu fit", header->n_tags, tags_max));
    for (size_t i = 0; i < header->n_tags; i++) {
        join->tags[i] = q_bytes_from_text(header->tags[i]);
        if (join->tags[i].size == 0 || join->tags[i].size > QBATCH_TAG_BYTES_MAX)
            return Q_FAIL(
                Q_INVALID,
                .what = q_text(
                    "a tag of %zu bytes; 1 to %d fit", join->tags[i].size, QBATCH_TAG_BYTES_MAX));
    }
    join->tag_count = (uint32_t)header->n_tags;
    join->tags_all = header->tags_all;
    return Q_OK;
}

static enum q_err
join_on_answer(struct broker_request *request, struct qnet_buffer **ret_answer)
{
    const struct qlog_join *join = &request->store.join;
    Qmq__Wire__JoinAnswer answer = QMQ__WIRE__JOIN_ANSWER__INIT;
    answer.session = join->session;
    answer.cursor = join->cursor;
    answer.waiting = join->waiting;
    answer.pending = join->pending;
    answer.unacked = join->unacked;
    answer.group_created = join->group_created;
    answer.consumer_timeout_ms = join->consumer_timeout_ns / Q_NS_PER_MS;
    return broker_build_answer(request, &answer.base, ret_answer);
}

static enum q_err
session_on_net(
    struct broker_request *request, const ProtobufCMessage *any_header, struct q_bytes payload)
{
    (void)payload;
    const Qmq__Wire__SessionRequest *header = (const Qmq__Wire__SessionRequest *)any_header;
    return broker_read_consumer(
        header->subject, header->group, header->consumer, header->session,
        &request->store.session.who);
}

static enum q_err
session_on_answer(struct broker_request *request, struct qnet_buffer **ret_answer)
{
    const Qmq__Wire__Empty answer = QMQ__WIRE__EMPTY__INIT;
    return broker_build_answer(request, &answer.base, ret_answer);
}
