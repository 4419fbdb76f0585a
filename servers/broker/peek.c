/*
 * peek.c: read a subject without a group. The answer is a pull's.
 */
#include <qbatch/layout.h>

#include "broker/request.h"

static enum q_err peek_on_net(
    struct broker_request *request, const ProtobufCMessage *header, struct q_bytes payload);
static enum q_err peek_on_answer(struct broker_request *request, struct qnet_buffer **ret_answer);

const struct broker_route broker_peek_route = {
    .op = QPROTO_PEEK,
    .kind = QLOG_PEEK,
    .on_net = peek_on_net,
    .on_answer = peek_on_answer,
};

static enum q_err
peek_on_net(
    struct broker_request *request, const ProtobufCMessage *any_header, struct q_bytes payload)
{
    (void)payload;
    const Qmq__Wire__PeekRequest *header = (const Qmq__Wire__PeekRequest *)any_header;
    struct qlog_peek *peek = &request->store.peek;

    Q_TRY(qproto_check_read_subject(header->subject));
    Q_TRY(broker_read_start(header->start, &peek->start));
    Q_TRY(broker_limit_pull(request, header->messages_max, header->bytes_max));
    peek->pull.who.subject = q_bytes_from_text(header->subject);
    peek->at = header->start_at;
    if (header->key.len > QBATCH_KEY_BYTES_MAX)
        return Q_FAIL(
            Q_TOO_BIG, .what = q_text(
                           "a key of %zu bytes; it has at most %u", header->key.len,
                           (unsigned)QBATCH_KEY_BYTES_MAX));
    peek->key = q_bytes_from(header->key.data, header->key.len);
    return Q_OK;
}

static enum q_err
peek_on_answer(struct broker_request *request, struct qnet_buffer **ret_answer)
{
    return broker_answer_pull(request, request->store.peek.next, ret_answer);
}
