/*
 * delay/build.c: the bytes of a request to a broker group, from its items and the delay log.
 */
#include <stdlib.h>
#include <string.h>

#include <qbatch/forward.h>
#include <qlog/guard.h>

#include "delay/delay.h"

enum {
    READ_TRIES = 60, /* two minutes; then what can't be read holds up the rest no longer */
};

static enum q_err open_build_item(struct ql_open *open, const struct ql_dispatch_item *item);
static enum q_err reserve(uint8_t **data, uint32_t *capacity, uint64_t size);
static void open_stamp(struct ql_open *open);

enum q_err
ql_open_build(struct ql_open *open)
{
    struct qlog_delay_send *send = &open->send;
    send->envelopes_size = 0;
    send->payloads_size = 0;
    send->batch_count = 0;
    send->message_count = 0;
    for (uint32_t i = 0; i < open->item_count; i++) {
        const struct ql_dispatch_item *item = &open->items[i];
        enum q_err err = open_build_item(open, item);
        if (err == Q_OK) continue;
        /* A disk that is away for a moment takes nothing along. */
        bool passing = err != Q_E_CORRUPT && open->read_tries++ < READ_TRIES;
        if (passing || err == Q_E_NOMEM) return err;
        struct qlog_delay *delay = open->delay;
        delay->counters.damaged += item->count;
        QL_TELL(
            &delay->home->env, ROT, .log = delay->log->name, .path = delay->home->env.path,
            .position = item->frame, .bytes = (uint64_t)item->envelope_size + item->payload_size,
            .text = q_text(
                "delayed messages %llu to %llu can not be read, and are not handed over",
                (unsigned long long)item->sequence,
                (unsigned long long)item->sequence + item->count - 1));
    }
    open_stamp(open);
    open->built = true;
    return Q_OK;
}

static enum q_err
reserve(uint8_t **data, uint32_t *capacity, uint64_t size)
{
    if (size <= *capacity) return Q_OK;
    uint64_t wanted = q_max_u64(size, (uint64_t)*capacity * 2);
    uint8_t *grown = realloc(*data, wanted);
    if (grown == NULL) return Q_FAIL(Q_E_NOMEM, .what = "a request to a broker group");
    *data = grown;
    *capacity = (uint32_t)wanted;
    return Q_OK;
}

static enum q_err
open_build_item(struct ql_open *open, const struct ql_dispatch_item *item)
{
    struct qlog_delay *delay = open->delay;
    struct qlog_delay_send *send = &open->send;
    struct ql_delay_entry entry = {
        .envelope_at = item->envelope_at,
        .envelope_size = item->envelope_size,
        .payload_at = item->payload_at,
        .payload_size = item->payload_size,
    };
    const struct ql_delay_subject *subject = ql_delay_subject(delay, item->subject_id);
    if (subject == NULL) return Q_FAIL(Q_E_CORRUPT, .what = "a subject without a name");
    struct qbatch batch;
    struct qbatch_forward forward = {
        .batch = &batch,
        .first = item->first,
        .count = item->count,
        .place = { .request_sequence = open->request },
    };
    Q_TRY(ql_delay_read(delay, item->frame, &entry, &batch, &forward.payload));
    if (item->first >= batch.message_count || item->count > batch.message_count - item->first)
        return Q_FAIL(Q_E_CORRUPT, .what = "a batch that has fewer messages than was said");
    if (item->count < batch.message_count)
        Q_TRY(ql_delay_content(delay, &batch, forward.payload, &forward.content));
    memcpy(forward.producer_id, open->target->producer_id, sizeof(forward.producer_id));
    uint32_t envelope_size;
    uint32_t payload_size;
    qbatch_forward_size(&forward, &envelope_size, &payload_size);
    Q_TRY(reserve(
        &open->envelopes, &open->envelopes_capacity,
        (uint64_t)send->envelopes_size + envelope_size));
    Q_TRY(reserve(
        &open->payloads, &open->payloads_capacity, (uint64_t)send->payloads_size + payload_size));
    qbatch_forward_write(
        &forward, open->envelopes + send->envelopes_size, open->payloads + send->payloads_size);
    send->envelopes_size += envelope_size;
    send->payloads_size += payload_size;
    open->subjects[send->batch_count++] = q_bytes_from(subject->name, subject->size);
    send->message_count += item->count;
    return Q_OK;
}

/* How many batches there are is known now. */
static void
open_stamp(struct ql_open *open)
{
    struct qlog_delay_send *send = &open->send;
    uint8_t *at = open->envelopes;
    for (uint32_t i = 0; i < send->batch_count; i++) {
        qbatch_forward_number(
            at, &(struct qbatch_request_place){
                    .request_sequence = open->request,
                    .request_index = i,
                    .request_count = send->batch_count,
                });
        at += q_load_le32(at + QBATCH_ENVELOPE_LENGTH);
    }
    send->envelopes = open->envelopes;
    send->payloads = open->payloads;
    send->subjects = open->subjects;
    send->request_sequence = open->request;
}

enum q_err
ql_delay_read(
    struct qlog_delay *delay,
    uint64_t frame,
    const struct ql_delay_entry *entry,
    struct qbatch *ret_batch,
    const uint8_t **ret_payload)
{
    size_t size = (size_t)entry->envelope_size + entry->payload_size;
    if (size > delay->scratch_size) {
        uint8_t *scratch = realloc(delay->scratch, size);
        if (scratch == NULL) return Q_FAIL(Q_E_NOMEM, .what = "a delayed batch");
        delay->scratch = scratch;
        delay->scratch_size = size;
    }
    const struct ql_run *run = ql_schedule_map(delay, frame);
    if (run == NULL) return q_fault_last()->err;
    /* Lengths come from the log, of which another part than is thought may be damaged. */
    uint64_t at = QL_BLOCK + (frame - run->base);
    uint64_t room = at < run->map_size ? run->map_size - at : 0;
    if (frame >= delay->log->written || entry->envelope_at > room ||
        entry->envelope_size > room - entry->envelope_at || entry->payload_at > room ||
        entry->payload_size > room - entry->payload_at)
        return Q_FAIL(Q_E_CORRUPT, .what = "a batch behind the end of the log");
    uint8_t *payload = delay->scratch + entry->envelope_size;
    Q_TRY(
        qlog_guard_copy(delay->scratch, run->map + at + entry->envelope_at, entry->envelope_size));
    Q_TRY(qlog_guard_copy(payload, run->map + at + entry->payload_at, entry->payload_size));
    Q_TRY(qbatch_open(q_bytes_from(delay->scratch, entry->envelope_size), ret_batch));
    if (ret_batch->envelope_length != entry->envelope_size ||
        ret_batch->payload_padded_length != entry->payload_size || !ret_batch->delayed)
        return Q_FAIL(Q_E_CORRUPT, .what = "a batch that is another one than was said");
    Q_TRY(qbatch_check_payload(ret_batch, payload));
    *ret_payload = payload;
    return Q_OK;
}

enum q_err
ql_delay_content(
    struct qlog_delay *delay,
    const struct qbatch *batch,
    const uint8_t *payload,
    struct q_bytes *ret_content)
{
    if (batch->codec == QBATCH_CODEC_NONE) return qbatch_content(batch, payload, NULL, ret_content);
    if (batch->content_length > delay->content_size) {
        uint8_t *content = realloc(delay->content, batch->content_length);
        if (content == NULL) return Q_FAIL(Q_E_NOMEM, .what = "a delayed batch");
        delay->content = content;
        delay->content_size = batch->content_length;
    }
    return qbatch_content(batch, payload, delay->content, ret_content);
}
