/*
 * ack.c: ranges of pull sequences are done.
 */
#include "broker/request.h"

static enum q_err ack_on_net(
    struct broker_request *request, const ProtobufCMessage *header, struct q_bytes payload);
static enum q_err ack_on_answer(struct broker_request *request, struct qnet_buffer **ret_answer);

const struct broker_route broker_ack_route = {
    .op = QPROTO_ACK,
    .kind = QLOG_ACK,
    .on_net = ack_on_net,
    .on_answer = ack_on_answer,
};

static enum q_err
ack_on_net(
    struct broker_request *request, const ProtobufCMessage *any_header, struct q_bytes payload)
{
    (void)payload;
    const Qmq__Wire__AckRequest *header = (const Qmq__Wire__AckRequest *)any_header;
    struct qlog_ack *ack = &request->store.ack;

    Q_TRY(broker_read_consumer(
        header->subject, header->group, header->consumer, header->session, &ack->who));
    size_t count = header->n_ranges;
    if (count == 0) return Q_FAIL(Q_INVALID, .what = "an acknowledgement of nothing");

    /* A range of which the middle came too late is two expired ones at most. */
    struct qlog_range *ranges = broker_request_array(request, count, sizeof(*ranges));
    struct qlog_range *expired = broker_request_array(request, 2 * count, sizeof(*expired));
    if (!ranges || !expired) return Q_FAIL(Q_E_NOMEM);
    for (size_t i = 0; i < count; i++) {
        const Qmq__Wire__Range *range = header->ranges[i];
        if (!range || range->last < range->first)
            return Q_FAIL(
                Q_INVALID,
                .what = q_text("range %zu of the acknowledgement ends before it begins", i));
        ranges[i] = (struct qlog_range){ .first = range->first, .last = range->last };
    }
    ack->ranges = ranges;
    ack->range_count = (uint32_t)count;
    ack->expired = expired;
    ack->expired_max = (uint32_t)(2 * count);
    return Q_OK;
}

static enum q_err
ack_on_answer(struct broker_request *request, struct qnet_buffer **ret_answer)
{
    const struct qlog_ack *ack = &request->store.ack;
    size_t count = ack->expired_count;
    Qmq__Wire__Range *ranges = broker_request_array(request, count + 1, sizeof(*ranges));
    Qmq__Wire__Range **pointers = broker_request_array(request, count + 1, sizeof(void *));
    if (!ranges || !pointers) return Q_FAIL(Q_E_NOMEM);
    for (size_t i = 0; i < count; i++) {
        qmq__wire__range__init(&ranges[i]);
        ranges[i].first = ack->expired[i].first;
        ranges[i].last = ack->expired[i].last;
        pointers[i] = &ranges[i];
    }

    Qmq__Wire__AckAnswer answer = QMQ__WIRE__ACK_ANSWER__INIT;
    answer.n_expired = count;
    answer.expired = pointers;
    answer.unacked = ack->unacked;
    return broker_build_answer(request, &answer.base, ret_answer);
}
