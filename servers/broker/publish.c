/*
 * publish.c: one request of a producer: batches of one or several subjects, all or none.
 *
 * The payload is the batches as they will lie in the frame. Here they are checked, with their
 * hashes, so that the store thread never looks at a body; the store copies them once, into the
 * frame, and writes its prefix into each envelope where it lies.
 */
#include "broker/request.h"

static enum q_err publish_on_net(
    struct broker_request *request, const ProtobufCMessage *header, struct q_bytes payload);
static enum q_err publish_on_answer(
    struct broker_request *request, struct qnet_buffer **ret_answer);
static enum q_err count_bytes(struct broker_request *request, size_t size);
static enum q_err read_subjects(
    struct broker_request *request, const Qmq__Wire__PublishRequest *header);

const struct broker_route broker_publish_route = {
    .op = QPROTO_PUBLISH,
    .kind = QLOG_PUBLISH,
    .on_net = publish_on_net,
    .on_answer = publish_on_answer,
};

static enum q_err
publish_on_net(
    struct broker_request *request, const ProtobufCMessage *any_header, struct q_bytes payload)
{
    Q_TRY(count_bytes(request, payload.size));
    return broker_read_publish(request, any_header, payload);
}

/* Given back with the request. */
static enum q_err
count_bytes(struct broker_request *request, size_t size)
{
    struct broker *broker = request->broker;
    size_t before = atomic_fetch_add(&broker->publish_bytes, size);
    request->publish_bytes = (uint32_t)size;
    if (before + size <= BROKER_PUBLISH_BYTES_MAX) return Q_OK;
    return Q_FAIL(Q_BUSY, .what = q_text("%zu bytes wait to be stored", before));
}

enum q_err
broker_read_publish(
    struct broker_request *request, const ProtobufCMessage *any_header, struct q_bytes payload)
{
    const Qmq__Wire__PublishRequest *header = (const Qmq__Wire__PublishRequest *)any_header;
    struct qlog_publish *publish = &request->store.publish;

    Q_TRY(read_subjects(request, header));
    if (header->mode > QLOG_MODE_SYNC_REPLICA)
        return Q_FAIL(Q_INVALID, .what = q_text("there is no durability mode %u", header->mode));
    if (header->envelopes_length > payload.size)
        return Q_FAIL(
            Q_INVALID, .what = q_text(
                           "envelopes of %u bytes in a payload of %zu", header->envelopes_length,
                           payload.size));
    /* The payload is part of the call's bytes, which are ours to write to until it is answered. */
    size_t start = (size_t)(payload.data - qnet_call_request(request->call).data);
    publish->envelopes = qnet_call_request_data(request->call) + start;
    publish->envelopes_size = header->envelopes_length;
    publish->payloads = publish->envelopes + header->envelopes_length;
    publish->payloads_size = (uint32_t)(payload.size - header->envelopes_length);
    publish->mode = (enum qlog_mode)header->mode;
    publish->settled = header->settled_below;
    publish->again = header->again;
    return qlog_publish_check(publish);
}

static enum q_err
read_subjects(struct broker_request *request, const Qmq__Wire__PublishRequest *header)
{
    struct qlog_publish *publish = &request->store.publish;
    size_t count = header->n_subjects;
    if (count == 0) return Q_FAIL(Q_INVALID, .what = "a publish without batches");
    if (count > QLOG_REQUEST_BATCHES_MAX)
        return Q_FAIL(
            Q_TOO_BIG,
            .what = q_text(
                "%zu batches in one request, at most %d fit", count, QLOG_REQUEST_BATCHES_MAX));

    struct q_bytes *subjects = broker_request_array(request, count, sizeof(*subjects));
    uint64_t *first_sequences = broker_request_array(request, count, sizeof(*first_sequences));
    if (!subjects || !first_sequences) return Q_FAIL(Q_E_NOMEM);
    for (size_t i = 0; i < count; i++) {
        Q_TRY(qproto_check_name("subject", header->subjects[i], QPROTO_SUBJECT_MAX));
        subjects[i] = q_bytes_from_text(header->subjects[i]);
    }
    publish->subjects = subjects;
    publish->batch_count = (uint32_t)count;
    publish->ret_first_sequences = first_sequences;
    return Q_OK;
}

static enum q_err
publish_on_answer(struct broker_request *request, struct qnet_buffer **ret_answer)
{
    const struct qlog_publish *publish = &request->store.publish;
    Qmq__Wire__PublishAnswer answer = QMQ__WIRE__PUBLISH_ANSWER__INIT;
    answer.n_first_sequences = publish->batch_count;
    answer.first_sequences = publish->ret_first_sequences;
    answer.mode = publish->achieved;
    answer.duplicate = publish->duplicate;
    return broker_build_answer(request, &answer.base, ret_answer);
}
