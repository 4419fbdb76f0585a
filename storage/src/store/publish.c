/*
 * store/publish.c: batches into the message log, sequences to messages, entries to the index.
 */
#include <string.h>

#include <qbase/assert.h>

#include "log/index_scan.h"
#include "planted.h"
#include "store/publish.h"

static enum q_err publish_accept(struct qlog_store *store, struct qlog_publish *publish);
static void publish_measure(struct ql_append *append, uint64_t incarnation);
static void publish_fill(
    struct ql_append *append, const struct ql_place *place, uint8_t *records, uint8_t *payloads);
static void publish_done(struct ql_append *append, enum q_err err);
static void publish_withdraw(
    struct qlog_store *store, struct qlog_publish *publish, uint32_t batch_count);

static const struct ql_append_table publish_table = {
    .measure = publish_measure,
    .fill = publish_fill,
    .done = publish_done,
};

static struct qlog_publish *
publish_of(struct ql_append *append)
{
    return ql_publish_of(q_container_of(append, struct ql_publish_state, append));
}

enum q_err
qlog_publish_check(struct qlog_publish *publish)
{
    publish->checked = false;
    if (publish->batch_count == 0 || publish->batch_count > QLOG_REQUEST_BATCHES_MAX)
        return Q_FAIL(
            Q_INVALID, .what = q_text(
                           "a request has 1 to %u batches, this one %u",
                           (unsigned)QLOG_REQUEST_BATCHES_MAX, publish->batch_count));
    uint64_t size = (uint64_t)publish->envelopes_size + publish->payloads_size;
    if (size > QLOG_REQUEST_BYTES_MAX)
        return Q_FAIL(
            Q_TOO_BIG, .what = q_text(
                           "a request has at most %u bytes, this one %llu",
                           (unsigned)QLOG_REQUEST_BYTES_MAX, (unsigned long long)size));
    struct qbatch_set_walk walk = {
        .envelopes = q_bytes_from(publish->envelopes, publish->envelopes_size),
        .payloads = q_bytes_from(publish->payloads, publish->payloads_size),
    };
    uint32_t messages = 0;
    uint32_t digest = 0;
    for (uint32_t i = 0; i < publish->batch_count; i++) {
        struct qbatch batch;
        const uint8_t *payload;
        enum q_err err = qbatch_set_next(&walk, false, &batch, &payload);
        if (err == Q_END)
            return Q_FAIL(
                Q_E_CORRUPT,
                .what = q_text("%u batches where %u are said", i, publish->batch_count));
        if (err != Q_OK) return err;
        Q_TRY(qbatch_check_payload(&batch, payload));
        if (batch.request_index != i || batch.request_count != publish->batch_count)
            return Q_FAIL(
                Q_E_CORRUPT, .what = q_text(
                                 "batch %u says that it is %u of %u", i, batch.request_index,
                                 batch.request_count));
        if (i == 0) {
            memcpy(publish->producer, batch.producer_id, sizeof(publish->producer));
            publish->sequence = batch.request_sequence;
        }
        if (batch.request_sequence != publish->sequence || batch.request_sequence > INT64_MAX ||
            memcmp(batch.producer_id, publish->producer, sizeof(publish->producer)) != 0)
            return Q_FAIL(
                Q_E_CORRUPT, .what = q_text("batch %u is not of the same request as the first", i));
        digest = ql_request_digest(digest, batch.envelope);
        if (publish->subjects[i].size == 0 || publish->subjects[i].size > QLOG_SUBJECT_MAX)
            return Q_FAIL(
                Q_INVALID, .what = q_text("subject of %zu bytes", publish->subjects[i].size));
        if (i > 0 && batch.delayed != publish->delayed)
            return Q_FAIL(
                Q_INVALID, .what = "a request with batches that are due and some that are not");
        publish->delayed = batch.delayed;
        messages += batch.message_count;
    }
    struct qbatch batch;
    const uint8_t *payload;
    if (qbatch_set_next(&walk, false, &batch, &payload) != Q_END)
        return Q_FAIL(Q_E_CORRUPT, .what = "more batches than are said");
    publish->message_count = messages;
    publish->digest = digest;
    publish->checked = true;
    return Q_OK;
}

void
ql_publish_start(struct qlog_store *store, struct qlog_publish *publish)
{
    Q_ASSERT(publish->checked);
    struct ql_publish_state *state = ql_publish_state(publish);
    memset(state, 0, sizeof(*state));
    state->store = store;
    state->append.table = &publish_table;
    publish->duplicate = false;
    enum q_err err = Q_OK;
    if (publish->delayed)
        err = Q_FAIL(
            Q_INVALID, .what = "a delayed message for a broker",
            .hint = "delayed messages go to a delay group");
    else if (publish->mode > QLOG_MODE_SYNC)
        err = Q_FAIL(
            Q_NO_SUCH_MODE,
            .what = q_text("mode %s needs a replica", qlog_mode_name(publish->mode)));
    else
        err = publish->sequence == 0 ? ql_publish_append(store, publish)
                                     : ql_once_start(store, publish);
    if (err != Q_OK) ql_publish_finish(publish, err);
}

enum q_err
ql_publish_append(struct qlog_store *store, struct qlog_publish *publish)
{
    struct ql_publish_state *state = ql_publish_state(publish);
    /* Behind one that is refused, and not told yet, none of its producer may follow. */
    if (state->producer != NULL) Q_TRY(ql_log_refuses(store->messages));
    Q_TRY(ql_retention_admits(store));
    Q_TRY(publish_accept(store, publish));
    enum q_err err = ql_log_append(store->messages, &state->append);
    if (err != Q_OK) publish_withdraw(store, publish, publish->batch_count);
    return err;
}

/* Length of the envelope at `at`; qlog_publish_check() has checked it. */
static uint32_t
envelope_length(const uint8_t *at)
{
    return q_load_le32(at + QBATCH_ENVELOPE_LENGTH);
}

/* Find or make the subjects, note their ids in the envelopes, reserve what must not fail later. */
static enum q_err
publish_accept(struct qlog_store *store, struct qlog_publish *publish)
{
    struct ql_publish_state *state = ql_publish_state(publish);
    enum qlog_mode achieved = publish->mode;
    uint8_t *at = publish->envelopes;
    for (uint32_t i = 0; i < publish->batch_count; i++) {
        struct ql_subject *subject;
        enum q_err err = ql_store_need_subject(store, publish->subjects[i], &subject);
        if (err == Q_OK) err = ql_index_admit(&store->index);
        if (err == Q_OK) err = ql_index_promise(&store->index, at);
        if (err != Q_OK) {
            publish_withdraw(store, publish, i);
            return err;
        }
        q_store_le32(at + QBATCH_SUBJECT_ID, subject->id);
        if (publish->mode == QLOG_MODE_DEFAULT && ql_store_mode(store, subject) > achieved)
            achieved = ql_store_mode(store, subject);
        at += envelope_length(at);
    }
    publish->achieved = achieved;
    state->append.flushed = achieved == QLOG_MODE_SYNC;
    return Q_OK;
}

/* It is not going to be in a frame: give back what was promised to its first batches. */
static void
publish_withdraw(struct qlog_store *store, struct qlog_publish *publish, uint32_t batch_count)
{
    const struct ql_append *append = &ql_publish_state(publish)->append;
    const uint8_t *at = publish->envelopes;
    for (uint32_t i = 0; i < batch_count; i++) {
        struct ql_subject *subject =
            ql_index_get(&store->index, q_load_le32(at + QBATCH_SUBJECT_ID));
        ql_index_withdraw(&store->index, at);
        if (subject->namer == append) {
            subject->namer = NULL;
            subject->named_in = 0;
        }
        at += envelope_length(at);
    }
}

/* The SUBJECT record that a batch brings along: its subject's first in this segment. */
static bool
publish_names(
    const struct ql_append *append,
    struct ql_subject *subject,
    uint32_t batch,
    uint64_t incarnation)
{
    bool named = subject->named_in != 0 && QL_PLANTED(subject_unnamed);
    if (subject->named_in != incarnation && !named) {
        subject->named_in = incarnation;
        subject->namer = append;
        subject->namer_batch = batch;
    }
    return subject->namer == append && subject->namer_batch == batch;
}

static void
publish_measure(struct ql_append *append, uint64_t incarnation)
{
    struct qlog_publish *publish = publish_of(append);
    struct qlog_store *store = ql_publish_state(publish)->store;
    append->records_size = publish->envelopes_size;
    append->payloads_size = publish->payloads_size;
    append->record_count = publish->batch_count;
    const uint8_t *at = publish->envelopes;
    for (uint32_t i = 0; i < publish->batch_count; i++) {
        struct ql_subject *subject =
            ql_index_get(&store->index, q_load_le32(at + QBATCH_SUBJECT_ID));
        /* Only who is next in the log may take it upon itself to name the subject. */
        if (incarnation == 0 || publish_names(append, subject, i, incarnation)) {
            struct ql_subject_record record = ql_subject_statement(subject);
            append->records_size += ql_subject_record_size(&record);
            append->record_count++;
        }
        at += envelope_length(at);
    }
}

static void
publish_fill(
    struct ql_append *append, const struct ql_place *place, uint8_t *records, uint8_t *payloads)
{
    struct qlog_publish *publish = publish_of(append);
    struct qlog_store *store = ql_publish_state(publish)->store;
    const uint8_t *from = publish->envelopes;
    uint8_t *to = records;
    uint32_t payload_at = place->payloads_at;
    uint32_t first_at = 0;
    for (uint32_t i = 0; i < publish->batch_count; i++) {
        struct ql_subject *subject =
            ql_index_get(&store->index, q_load_le32(from + QBATCH_SUBJECT_ID));
        if (subject->namer == append && subject->namer_batch == i) {
            struct ql_subject_record record = ql_subject_statement(subject);
            ql_subject_record_encode(&record, to);
            to += ql_subject_record_size(&record);
            subject->namer = NULL;
        }
        uint32_t length = envelope_length(from);
        memcpy(to, from, length);
        qbatch_set_prefix(to, subject->id, subject->next_sequence, place->wall_ms);
        struct ql_entry entry = {
            .first_sequence = subject->next_sequence,
            .frame = place->frame,
            .frame_size = place->frame_size,
            .envelope_at = place->records_at + (uint32_t)(to - records),
            .envelope_size = length,
            .payload_at = payload_at,
            .payload_size = (uint32_t)q_align_up(q_load_le32(from + QBATCH_PAYLOAD_LENGTH), 8),
            .count = q_load_le32(from + QBATCH_MESSAGE_COUNT),
        };
        if (i == 0) first_at = entry.envelope_at;
        publish->ret_first_sequences[i] = entry.first_sequence;
        ql_index_add(&store->index, subject, &entry, to, place->wall_ms);
        ql_subject_stir(store, subject);
        store->counters.messages += entry.count;
        payload_at += entry.payload_size;
        from += length;
        to += length;
    }
    Q_ASSERT((uint32_t)(to - records) == append->records_size);
    Q_ASSERT(payload_at - place->payloads_at == publish->payloads_size);
    memcpy(payloads, publish->payloads, publish->payloads_size);
    struct ql_result result = {
        .frame = place->frame,
        .from = first_at,
        .to = place->records_at + append->records_size,
    };
    if (ql_publish_state(publish)->producer != NULL) ql_once_placed(publish, &result);
}

static void
publish_done(struct ql_append *append, enum q_err err)
{
    struct qlog_publish *publish = publish_of(append);
    struct qlog_store *store = ql_publish_state(publish)->store;
    const struct ql_publish_state *state = ql_publish_state(publish);
    if (state->repeat && err == Q_OK) err = ql_once_repeat(publish);
    if (append->end == 0) {
        publish_withdraw(store, publish, publish->batch_count);
        if (state->producer != NULL) ql_once_refused(publish, err);
    }
    store->counters.publishes++;
    ql_publish_finish(publish, err);
}

/* A full disk is one answer, whoever met it first: the level, or a log that could not go on. */
void
ql_publish_finish(struct qlog_publish *publish, enum q_err err)
{
    if (err == Q_E_NO_SPACE) {
        struct q_fault fault = *q_fault_last();
        fault.err = err = Q_STORAGE_FULL;
        q_fault_adopt(&fault);
    }
    ql_request_finish(&publish->request, err);
}

enum q_err
ql_publish_replay(
    struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record)
{
    struct qbatch batch;
    struct ql_entry entry;
    Q_TRY(ql_entry_of_record(scan, record, &batch, &entry));
    struct ql_subject *subject = ql_index_get(&store->index, batch.subject_id);
    if (subject == NULL && store->damaged)
        Q_TRY(ql_index_need_unnamed(&store->index, batch.subject_id, &subject));
    if (subject == NULL)
        return Q_FAIL(
            Q_E_CORRUPT, .what = q_text("a batch of the unnamed subject %u", batch.subject_id));
    if (batch.first_sequence < subject->next_sequence)
        return Q_FAIL(
            Q_E_CORRUPT, .what = q_text(
                             "sequence %llu of \"%s\" is given twice",
                             (unsigned long long)batch.first_sequence, subject->name));
    Q_TRY(ql_index_promise(&store->index, batch.envelope));
    ql_index_add(&store->index, subject, &entry, batch.envelope, batch.store_time_ms);
    return ql_producers_replay(store, &batch, &entry);
}
