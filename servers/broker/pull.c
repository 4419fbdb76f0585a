/*
 * pull.c: messages for one consumer.
 *
 * The store gives runs (which messages) and pieces (stored batches that hold them, pinned). Their
 * payloads are checked against the producer's hash here, off the store thread, and copied once,
 * into the answer: all envelopes, then all payloads. What fails its check, or what the disk does not
 * give, is not delivered.
 */
#include "broker/request.h"

#include <qbase/clock.h>
#include <qbatch/batch.h>
#include <qlog/guard.h>

#include "broker/waiting.h"
#include "common/log.h"

enum {
    PIECES_MAX = 256,
    RUNS_MAX = 128,
    BYTES_DEFAULT = 256 * 1024,
    BYTES_MAX = 4 * 1024 * 1024, /* what a client's transport takes, with room for the header */
    WAIT_MS_MAX = 20 * 1000, /* below a consumer's time-out: the next pull shows that it lives */
    ROT_TELL_SECONDS = 10,
};

/* Where an answer's pieces go. */
struct target {
    const struct qlog_pull *pull;
    uint8_t *envelopes;
    uint8_t *payloads;
};

static enum q_err pull_on_net(
    struct broker_request *request, const ProtobufCMessage *header, struct q_bytes payload);
static enum q_err pull_on_answer(struct broker_request *request, struct qnet_buffer **ret_answer);
static enum q_err build(
    struct broker_request *request, uint64_t next, struct qnet_buffer **ret_answer);
static enum q_err check_pieces(void *context);
static void tell_rot(struct broker_request *request);
static enum q_err copy_pieces(void *context);

const struct broker_route broker_pull_route = {
    .op = QPROTO_PULL,
    .kind = QLOG_PULL,
    .on_net = pull_on_net,
    .on_answer = pull_on_answer,
};

static enum q_err
pull_on_net(
    struct broker_request *request, const ProtobufCMessage *any_header, struct q_bytes payload)
{
    (void)payload;
    const Qmq__Wire__PullRequest *header = (const Qmq__Wire__PullRequest *)any_header;
    struct qlog_pull *pull = &request->store.pull;

    Q_TRY(broker_read_consumer(
        header->subject, header->group, header->consumer, header->session, &pull->who));
    Q_TRY(broker_limit_pull(request, header->messages_max, header->bytes_max));
    pull->wait_ns = q_min_u64(header->wait_ms, WAIT_MS_MAX) * Q_NS_PER_MS;
    pull->received = header->received;
    pull->messages_min = header->messages_min;
    pull->bytes_min = header->bytes_min;
    pull->invisible_ms = header->invisible_ms;
    pull->once = header->once;

    if (pull->wait_ns > 0) broker_waiting_enter(request);
    return Q_OK;
}

enum q_err
broker_limit_pull(struct broker_request *request, uint32_t messages_max, uint32_t bytes_max)
{
    struct qlog_pull *pull = &request->store.pull;
    if (messages_max == 0) return Q_FAIL(Q_INVALID, .what = "a pull of 0 messages");
    pull->messages_max = messages_max;
    pull->bytes_max = bytes_max ? bytes_max : BYTES_DEFAULT;
    if (pull->bytes_max > BYTES_MAX) pull->bytes_max = BYTES_MAX;
    pull->pieces_max = (uint32_t)q_min_u64(messages_max, PIECES_MAX);
    pull->runs_max = (uint32_t)q_min_u64(messages_max, RUNS_MAX);
    pull->pieces = broker_request_array(request, pull->pieces_max, sizeof(*pull->pieces));
    pull->runs = broker_request_array(request, pull->runs_max, sizeof(*pull->runs));
    return pull->pieces && pull->runs ? Q_OK : Q_FAIL(Q_E_NOMEM);
}

static enum q_err
pull_on_answer(struct broker_request *request, struct qnet_buffer **ret_answer)
{
    return broker_answer_pull(request, 0, ret_answer);
}

enum q_err
broker_answer_pull(struct broker_request *request, uint64_t next, struct qnet_buffer **ret_answer)
{
    enum q_err err = qlog_guard(check_pieces, &request->store.pull);
    if (err == Q_OK) err = build(request, next, ret_answer);
    if (err == Q_E_CORRUPT || err == Q_E_IO) tell_rot(request);
    qlog_pull_release(&request->store.pull);
    return err;
}

/* Under a guard. */
static enum q_err
check_pieces(void *context)
{
    const struct qlog_pull *pull = context;
    for (uint32_t i = 0; i < pull->piece_count; i++) {
        const struct qlog_piece *piece = &pull->pieces[i];
        struct qbatch batch;
        Q_TRY(qbatch_open_trusted(q_bytes_from(piece->envelope, piece->envelope_size), &batch));
        if (batch.payload_padded_length != piece->payload_size)
            return Q_FAIL(
                Q_E_CORRUPT, .what = q_text(
                                 "a stored batch of %u bytes says it has %u", piece->payload_size,
                                 batch.payload_padded_length));
        Q_TRY(qbatch_check_payload(&batch, piece->payload));
    }
    return Q_OK;
}

/* The same batch will be pulled again and again: one line in a while is enough. */
static void
tell_rot(struct broker_request *request)
{
    struct broker *broker = request->broker;
    uint64_t now_ns = q_clock_monotonic_ns(q_clock_system());
    uint64_t pause_ns = (uint64_t)ROT_TELL_SECONDS * Q_NS_PER_S;
    if (broker->rot_told_ns && now_ns - broker->rot_told_ns < pause_ns) return;
    broker->rot_told_ns = now_ns;
    const struct qlog_consumer *who = &request->store.pull.who;
    srv_log(
        SRV_BROKER_ROT, "subject=%.*s group=%.*s sequence=%llu %s", (int)who->subject.size,
        (const char *)who->subject.data, (int)who->group.size, (const char *)who->group.data,
        (unsigned long long)request->store.pull.runs[0].sequence, srv_fault_keys(q_fault_last()));
}

static enum q_err
build(struct broker_request *request, uint64_t next, struct qnet_buffer **ret_answer)
{
    const struct qlog_pull *pull = &request->store.pull;
    Qmq__Wire__Run runs[RUNS_MAX];
    Qmq__Wire__Run *pointers[RUNS_MAX];
    for (uint32_t i = 0; i < pull->run_count; i++) {
        qmq__wire__run__init(&runs[i]);
        runs[i].pull_sequence = pull->runs[i].pull_sequence;
        runs[i].sequence = pull->runs[i].sequence;
        runs[i].count = pull->runs[i].count;
        runs[i].attempt = pull->runs[i].attempt;
        pointers[i] = &runs[i];
    }

    size_t envelopes_size = 0;
    size_t payloads_size = 0;
    for (uint32_t i = 0; i < pull->piece_count; i++) {
        envelopes_size += pull->pieces[i].envelope_size;
        payloads_size += pull->pieces[i].payload_size;
    }

    Qmq__Wire__PullAnswer answer = QMQ__WIRE__PULL_ANSWER__INIT;
    answer.n_runs = pull->run_count;
    answer.runs = pointers;
    answer.envelopes_length = (uint32_t)envelopes_size;
    answer.unacked = pull->unacked;
    answer.waiting = pull->waiting;
    answer.held = (uint32_t)pull->held;
    answer.strict = pull->strict;
    answer.next = next;

    size_t payload_size = envelopes_size + payloads_size;
    struct qnet_buffer *buffer;
    Q_TRY(qnet_buffer_new(qproto_size(&answer.base, payload_size), &buffer));
    uint8_t *to =
        qproto_write(qnet_buffer_data(buffer), request->route->op, 0, &answer.base, payload_size);
    struct target target = { .pull = pull, .envelopes = to, .payloads = to + envelopes_size };
    enum q_err err = qlog_guard(copy_pieces, &target);
    if (err != Q_OK) {
        qnet_buffer_free(buffer);
        return err;
    }
    *ret_answer = buffer;
    return Q_OK;
}

/* Under a guard. */
static enum q_err
copy_pieces(void *context)
{
    const struct target *target = context;
    const struct qlog_pull *pull = target->pull;
    uint8_t *envelope_to = target->envelopes;
    uint8_t *payload_to = target->payloads;
    for (uint32_t i = 0; i < pull->piece_count; i++) {
        const struct qlog_piece *piece = &pull->pieces[i];
        memcpy(envelope_to, piece->envelope, piece->envelope_size);
        memcpy(payload_to, piece->payload, piece->payload_size);
        envelope_to += piece->envelope_size;
        payload_to += piece->payload_size;
    }
    return Q_OK;
}
