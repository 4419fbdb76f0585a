/*
 * ack.c: ranges of pull sequences are done, or have failed.
 */
#include "broker/request.h"

#include <qbase/clock.h>

static enum q_err ack_on_net(
    struct broker_request *request, const ProtobufCMessage *header, struct q_bytes payload);
static enum q_err ack_on_answer(struct broker_request *request, struct qnet_buffer **ret_answer);
static enum q_err nack_on_net(
    struct broker_request *request, const ProtobufCMessage *header, struct q_bytes payload);
static enum q_err nack_on_answer(struct broker_request *request, struct qnet_buffer **ret_answer);

const struct broker_route broker_ack_route = {
    .op = QPROTO_ACK,
    .kind = QLOG_ACK,
    .on_net = ack_on_net,
    .on_answer = ack_on_answer,
};

const struct broker_route broker_nack_route = {
    .op = QPROTO_NACK,
    .kind = QLOG_NACK,
    .on_net = nack_on_net,
    .on_answer = nack_on_answer,
};

/* Ranges of a call, and room for those that came too late. */
struct ranges {
    struct qlog_range *ranges;
    struct qlog_range *expired;
    uint32_t expired_max;
};

static enum q_err read_ranges(
    struct broker_request *request,
    Qmq__Wire__Range *const *wire,
    size_t count,
    struct ranges *ret_ranges);
static enum q_err write_ranges(
    struct broker_request *request,
    const struct qlog_range *ranges,
    size_t count,
    Qmq__Wire__Range ***ret_wire);

static enum q_err
ack_on_net(
    struct broker_request *request, const ProtobufCMessage *any_header, struct q_bytes payload)
{
    (void)payload;
    const Qmq__Wire__AckRequest *header = (const Qmq__Wire__AckRequest *)any_header;
    struct qlog_ack *ack = &request->store.ack;

    Q_TRY(broker_read_consumer(
        header->subject, header->group, header->consumer, header->session, &ack->who));
    struct ranges ranges;
    Q_TRY(read_ranges(request, header->ranges, header->n_ranges, &ranges));
    ack->ranges = ranges.ranges;
    ack->range_count = (uint32_t)header->n_ranges;
    ack->expired = ranges.expired;
    ack->expired_max = ranges.expired_max;
    return Q_OK;
}

static enum q_err
nack_on_net(
    struct broker_request *request, const ProtobufCMessage *any_header, struct q_bytes payload)
{
    (void)payload;
    const Qmq__Wire__NackRequest *header = (const Qmq__Wire__NackRequest *)any_header;
    struct qlog_nack *nack = &request->store.nack;

    Q_TRY(broker_read_consumer(
        header->subject, header->group, header->consumer, header->session, &nack->who));
    struct ranges ranges;
    Q_TRY(read_ranges(request, header->ranges, header->n_ranges, &ranges));
    nack->ranges = ranges.ranges;
    nack->range_count = (uint32_t)header->n_ranges;
    nack->expired = ranges.expired;
    nack->expired_max = ranges.expired_max;
    if (header->with_delay && header->delay_ms >= QLOG_DELAY_BACKOFF / Q_NS_PER_MS)
        return Q_FAIL(
            Q_INVALID, .what = q_text("a delay of %llu ms", (unsigned long long)header->delay_ms));
    nack->delay_ms = header->with_delay ? header->delay_ms : QLOG_DELAY_BACKOFF;
    nack->error = q_bytes_from_text(header->error);
    return Q_OK;
}

static enum q_err
read_ranges(
    struct broker_request *request,
    Qmq__Wire__Range *const *wire,
    size_t count,
    struct ranges *ret_ranges)
{
    if (count == 0) return Q_FAIL(Q_INVALID, .what = "an acknowledgement of nothing");

    /* A range of which the middle came too late is two expired ones at most. */
    struct qlog_range *ranges = broker_request_array(request, count, sizeof(*ranges));
    struct qlog_range *expired = broker_request_array(request, 2 * count, sizeof(*expired));
    if (!ranges || !expired) return Q_FAIL(Q_E_NOMEM);
    for (size_t i = 0; i < count; i++) {
        const Qmq__Wire__Range *range = wire[i];
        if (!range || range->last < range->first)
            return Q_FAIL(
                Q_INVALID,
                .what = q_text("range %zu of the acknowledgement ends before it begins", i));
        ranges[i] = (struct qlog_range){ .first = range->first, .last = range->last };
    }
    *ret_ranges = (struct ranges){ ranges, expired, (uint32_t)(2 * count) };
    return Q_OK;
}

static enum q_err
ack_on_answer(struct broker_request *request, struct qnet_buffer **ret_answer)
{
    const struct qlog_ack *ack = &request->store.ack;
    Qmq__Wire__AckAnswer answer = QMQ__WIRE__ACK_ANSWER__INIT;
    answer.n_expired = ack->expired_count;
    Q_TRY(write_ranges(request, ack->expired, ack->expired_count, &answer.expired));
    answer.unacked = ack->unacked;
    return broker_build_answer(request, &answer.base, ret_answer);
}

static enum q_err
nack_on_answer(struct broker_request *request, struct qnet_buffer **ret_answer)
{
    const struct qlog_nack *nack = &request->store.nack;
    Qmq__Wire__NackAnswer answer = QMQ__WIRE__NACK_ANSWER__INIT;
    answer.n_expired = nack->expired_count;
    Q_TRY(write_ranges(request, nack->expired, nack->expired_count, &answer.expired));
    answer.unacked = nack->unacked;
    answer.dead = nack->dead_count;
    return broker_build_answer(request, &answer.base, ret_answer);
}

static enum q_err
write_ranges(
    struct broker_request *request,
    const struct qlog_range *ranges,
    size_t count,
    Qmq__Wire__Range ***ret_wire)
{
    Qmq__Wire__Range *wire = broker_request_array(request, count + 1, sizeof(*wire));
    Qmq__Wire__Range **pointers = broker_request_array(request, count + 1, sizeof(void *));
    if (!wire || !pointers) return Q_FAIL(Q_E_NOMEM);
    for (size_t i = 0; i < count; i++) {
        qmq__wire__range__init(&wire[i]);
        wire[i].first = ranges[i].first;
        wire[i].last = ranges[i].last;
        pointers[i] = &wire[i];
    }
    *ret_wire = pointers;
    return Q_OK;
}
