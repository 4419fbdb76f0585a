/*
 * delay/accept.c: batches into the delay log: delay sequences to messages, entries to the schedule.
 */
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbatch/forward.h>

#include "delay/delay.h"
#include "planted.h"

static enum q_err accept_check(struct qlog_delay *delay, struct qlog_publish *publish);
static enum q_err accept_batches(struct qlog_delay *delay, struct qlog_publish *publish);
static enum q_err put_new(struct qlog_delay *delay, size_t own_size, struct ql_put **ret_put);
static void put_drop(struct ql_put *put);
static enum q_err put_append(struct ql_put *put);
static void put_withdraw(struct ql_put *put);
static void put_measure(struct ql_append *append, uint64_t incarnation);
static void put_fill(
    struct ql_append *append, const struct ql_place *place, uint8_t *records, uint8_t *payloads);
static void put_done(struct ql_append *append, enum q_err err);

static const struct ql_append_table put_table = {
    .measure = put_measure,
    .fill = put_fill,
    .done = put_done,
};

static uint32_t
envelope_length(const uint8_t *at)
{
    return q_load_le32(at + QBATCH_ENVELOPE_LENGTH);
}

void
ql_delay_publish_start(struct qlog_delay *delay, struct qlog_delay_publish *publish)
{
    struct qlog_publish *what = &publish->publish;
    Q_ASSERT(what->checked);
    enum q_err err = accept_check(delay, what);
    if (err == Q_OK)
        err = what->sequence == 0 ? ql_delay_publish_append(delay, publish)
                                  : ql_intake_start(delay, publish);
    if (err != Q_OK) ql_delay_finish(&publish->request, err);
}

enum q_err
ql_delay_publish_append(struct qlog_delay *delay, struct qlog_delay_publish *publish)
{
    struct qlog_publish *what = &publish->publish;
    struct ql_put *put;
    Q_TRY(accept_batches(delay, what));
    Q_TRY(put_new(delay, 0, &put));
    put->publish = publish;
    put->envelopes = what->envelopes;
    put->envelopes_size = what->envelopes_size;
    put->payloads = what->payloads;
    put->payloads_size = what->payloads_size;
    put->batch_count = what->batch_count;
    put->message_count = what->message_count;
    put->append.flushed = what->achieved == QLOG_MODE_SYNC;
    enum q_err err = put_append(put);
    if (err != Q_OK) put_drop(put);
    return err;
}

static enum q_err
accept_check(struct qlog_delay *delay, struct qlog_publish *publish)
{
    if (!publish->delayed)
        return Q_FAIL(
            Q_INVALID, .what = "a message without a due time for a delay store",
            .hint = "messages that are due at once go to a broker group");
    if (publish->mode > QLOG_MODE_SYNC)
        return Q_FAIL(
            Q_NO_SUCH_MODE,
            .what = q_text("mode %s needs a replica", qlog_mode_name(publish->mode)));
    publish->achieved = publish->mode == QLOG_MODE_DEFAULT ? delay->options.mode : publish->mode;
    publish->duplicate = false;
    return Q_OK;
}

/* Everything that can be wrong with one of them is said before the first byte is kept. */
static enum q_err
accept_batches(struct qlog_delay *delay, struct qlog_publish *publish)
{
    uint64_t limit_ms = delay->eff.now_ms + delay->options.ahead_max_ms;
    const uint8_t *at = publish->envelopes;
    for (uint32_t i = 0; i < publish->batch_count; i++, at += envelope_length(at)) {
        uint64_t due_ms = q_load_le64(at + QBATCH_DUE_OR_ORIGIN);
        if (due_ms > limit_ms)
            return Q_FAIL(
                Q_DUE_TOO_FAR, .what = q_text(
                                   "due in %llu s, the limit is %llu s",
                                   (unsigned long long)((due_ms - delay->eff.now_ms) / Q_MS_PER_S),
                                   (unsigned long long)(delay->options.ahead_max_ms / Q_MS_PER_S)));
    }
    uint8_t *envelope = publish->envelopes;
    for (uint32_t i = 0; i < publish->batch_count; i++, envelope += envelope_length(envelope)) {
        uint32_t id;
        struct q_bytes name = publish->subjects[i];
        Q_TRY(ql_delay_need_subject(delay, name, &id));
        q_store_le32(envelope + QBATCH_SUBJECT_ID, id);
    }
    return Q_OK;
}

enum q_err
ql_delay_move(
    struct qlog_delay *delay,
    struct qlog_delay_reschedule *reschedule,
    const struct ql_run *run,
    const struct ql_delay_entry *entry,
    uint64_t sequence)
{
    struct qbatch batch;
    const uint8_t *payload;
    struct qbatch_forward forward = {
        .batch = &batch,
        .first = (uint32_t)(sequence - entry->sequence),
        .count = 1,
    };
    Q_TRY(ql_delay_read(delay, run->base + entry->frame, entry, &batch, &payload));
    Q_TRY(ql_delay_content(delay, &batch, payload, &forward.content));
    forward.payload = payload;
    memcpy(forward.producer_id, batch.producer_id, sizeof(forward.producer_id));
    forward.place = (struct qbatch_request_place){
        .request_sequence = batch.request_sequence,
        .request_count = 1,
        .due_ms = reschedule->due_ms,
    };
    uint32_t envelope_size;
    uint32_t payload_size;
    qbatch_forward_size(&forward, &envelope_size, &payload_size);
    struct ql_put *put;
    Q_TRY(put_new(delay, (size_t)envelope_size + payload_size, &put));
    qbatch_forward_write(&forward, put->own, put->own + envelope_size);
    q_store_le32(put->own + QBATCH_SUBJECT_ID, entry->subject_id);
    put->reschedule = reschedule;
    put->replaces = sequence;
    put->envelopes = put->own;
    put->envelopes_size = envelope_size;
    put->payloads = put->own + envelope_size;
    put->payloads_size = payload_size;
    put->batch_count = 1;
    put->message_count = 1;
    put->append.flushed = true;
    enum q_err err = put_append(put);
    if (err != Q_OK) put_drop(put);
    return err;
}

enum q_err
ql_delay_carry(
    struct qlog_delay *delay, const struct ql_run *run, const struct ql_delay_entry *entry)
{
    struct qbatch batch;
    const uint8_t *payload;
    struct ql_put *put;
    Q_TRY(ql_delay_read(delay, run->base + entry->frame, entry, &batch, &payload));
    Q_TRY(put_new(delay, (size_t)entry->envelope_size + entry->payload_size, &put));
    memcpy(put->own, batch.envelope, entry->envelope_size);
    memcpy(put->own + entry->envelope_size, payload, entry->payload_size);
    put->envelopes = put->own;
    put->envelopes_size = entry->envelope_size;
    put->payloads = put->own + entry->envelope_size;
    put->payloads_size = entry->payload_size;
    put->batch_count = 1;
    put->append.flushed = true;
    enum q_err err = put_append(put);
    if (err != Q_OK) put_drop(put);
    return err;
}

/* --- Batches under way. */

static enum q_err
put_new(struct qlog_delay *delay, size_t own_size, struct ql_put **ret_put)
{
    struct ql_put *put = delay->free_puts;
    if (put == NULL) {
        put = calloc(1, sizeof(*put));
        if (put == NULL) return Q_FAIL(Q_E_NOMEM, .what = "a delayed publish");
    } else {
        delay->free_puts = put->next;
    }
    uint8_t *own = put->own;
    uint32_t own_capacity = put->own_capacity;
    *put = (struct ql_put){
        .append.table = &put_table,
        .delay = delay,
        .own = own,
        .own_capacity = own_capacity,
    };
    if (own_size > own_capacity) {
        own = realloc(own, own_size);
        if (own == NULL) {
            put_drop(put);
            return Q_FAIL(Q_E_NOMEM, .what = "a delayed batch");
        }
        put->own = own;
        put->own_capacity = (uint32_t)own_size;
    }
    *ret_put = put;
    return Q_OK;
}

static void
put_drop(struct ql_put *put)
{
    put->next = put->delay->free_puts;
    put->delay->free_puts = put;
}

void
ql_puts_free(struct qlog_delay *delay)
{
    while (delay->free_puts != NULL) {
        struct ql_put *put = delay->free_puts;
        delay->free_puts = put->next;
        free(put->own);
        free(put);
    }
}

static enum q_err
put_append(struct ql_put *put)
{
    struct qlog_delay *delay = put->delay;
    bool carried = put->publish == NULL && put->reschedule == NULL;
    if (!carried) Q_TRY(ql_space_check(delay));
    if (!carried) Q_TRY(ql_schedule_check(delay, put->batch_count));
    Q_TRY(ql_schedule_promise(delay, put->batch_count, put->message_count));
    enum q_err err = ql_log_append(delay->log, &put->append);
    if (err != Q_OK) ql_schedule_withdraw(delay, put->batch_count, put->message_count);
    return err;
}

/* It is not going to be in a frame. */
static void
put_withdraw(struct ql_put *put)
{
    struct qlog_delay *delay = put->delay;
    const uint8_t *at = put->envelopes;
    ql_schedule_withdraw(delay, put->batch_count, put->message_count);
    for (uint32_t i = 0; i < put->batch_count; i++, at += envelope_length(at)) {
        struct ql_delay_subject *subject =
            ql_delay_subject(delay, q_load_le32(at + QBATCH_SUBJECT_ID));
        if (subject->namer != &put->append) continue;
        subject->namer = NULL;
        subject->named_in = 0;
    }
}

/* The SUBJECT record that a batch brings along: its subject's first in this segment. */
static bool
put_names(
    const struct ql_append *append,
    struct ql_delay_subject *subject,
    uint32_t batch,
    uint64_t incarnation)
{
    if (subject->named_in != incarnation) {
        subject->named_in = incarnation;
        subject->namer = append;
        subject->namer_batch = batch;
    }
    return subject->namer == append && subject->namer_batch == batch;
}

static struct ql_subject_record
subject_record(const struct ql_delay_subject *subject)
{
    return (struct ql_subject_record){
        .subject_id = subject->id,
        .name = q_bytes_from(subject->name, subject->size),
    };
}

static void
put_measure(struct ql_append *append, uint64_t incarnation)
{
    struct ql_put *put = q_container_of(append, struct ql_put, append);
    append->records_size = put->envelopes_size;
    append->payloads_size = put->payloads_size;
    append->record_count = put->batch_count;
    if (put->reschedule != NULL) {
        append->records_size += QL_REPLACES_RECORD_SIZE;
        append->record_count++;
    }
    const uint8_t *at = put->envelopes;
    for (uint32_t i = 0; i < put->batch_count; i++, at += envelope_length(at)) {
        struct ql_delay_subject *subject =
            ql_delay_subject(put->delay, q_load_le32(at + QBATCH_SUBJECT_ID));
        /* Only who is next in the log may take it upon itself to name the subject. */
        if (incarnation != 0 && !put_names(append, subject, i, incarnation)) continue;
        struct ql_subject_record record = subject_record(subject);
        append->records_size += ql_subject_record_size(&record);
        append->record_count++;
    }
}

static void
put_fill(
    struct ql_append *append, const struct ql_place *place, uint8_t *records, uint8_t *payloads)
{
    struct ql_put *put = q_container_of(append, struct ql_put, append);
    struct qlog_delay *delay = put->delay;
    uint64_t base = delay->log->active->base;
    bool carried = put->publish == NULL && put->reschedule == NULL;
    const uint8_t *from = put->envelopes;
    uint8_t *to = records;
    uint32_t payload_at = place->payloads_at;
    if (put->reschedule != NULL) {
        ql_replaces_record_encode(&(struct ql_replaces_record){ .sequence = put->replaces }, to);
        to += QL_REPLACES_RECORD_SIZE;
        ql_schedule_replaces(delay, base, put->replaces);
    }
    for (uint32_t i = 0; i < put->batch_count; i++) {
        struct ql_delay_subject *subject =
            ql_delay_subject(delay, q_load_le32(from + QBATCH_SUBJECT_ID));
        if (subject->namer == append && subject->namer_batch == i) {
            struct ql_subject_record record = subject_record(subject);
            ql_subject_record_encode(&record, to);
            to += ql_subject_record_size(&record);
            subject->namer = NULL;
        }
        uint32_t length = envelope_length(from);
        uint32_t count = q_load_le32(from + QBATCH_MESSAGE_COUNT);
        memcpy(to, from, length);
        uint64_t sequence = q_load_le64(from + QBATCH_FIRST_SEQUENCE);
        if (!carried) {
            sequence = delay->next_sequence;
            delay->next_sequence += count;
            delay->promised_messages -= count;
            qbatch_set_prefix(to, subject->id, sequence, place->wall_ms);
        }
        struct ql_delay_entry entry = {
            .due_ms = q_load_le64(from + QBATCH_DUE_OR_ORIGIN),
            .sequence = sequence,
            .frame = (uint32_t)(place->frame - base),
            .envelope_at = place->records_at + (uint32_t)(to - records),
            .envelope_size = length,
            .payload_at = payload_at,
            .payload_size = (uint32_t)q_align_up(q_load_le32(from + QBATCH_PAYLOAD_LENGTH), 8),
            .count = count,
            .subject_id = subject->id,
        };
        ql_schedule_add(delay, base, &entry, delay->home->env.generation, place->wall_ms);
        if (!carried) {
            delay->counters.pending += count;
            delay->live_bytes += (uint64_t)entry.envelope_size + entry.payload_size;
        }
        if (put->publish != NULL) put->publish->publish.ret_first_sequences[i] = sequence;
        if (put->publish != NULL && i == 0) ql_intake_placed(put->publish, place->frame, sequence);
        if (put->reschedule != NULL) put->reschedule->ret_sequence = sequence;
        payload_at += entry.payload_size;
        from += length;
        to += length;
    }
    Q_ASSERT((uint32_t)(to - records) == append->records_size);
    memcpy(payloads, put->payloads, put->payloads_size);
}

static void
put_done(struct ql_append *append, enum q_err err)
{
    struct ql_put *put = q_container_of(append, struct ql_put, append);
    struct qlog_delay *delay = put->delay;
    struct qlog_delay_publish *publish = put->publish;
    struct qlog_delay_reschedule *reschedule = put->reschedule;
    if (append->end == 0) put_withdraw(put);
    if (err == Q_E_NO_SPACE) {
        struct q_fault fault = *q_fault_last();
        ql_space_full(delay);
        fault.err = err = Q_STORAGE_FULL;
        q_fault_adopt(&fault);
    }
    if (append->end == 0 && publish != NULL) ql_intake_refused(publish, err);
    if (err == Q_OK && publish != NULL) delay->counters.accepted += put->message_count;
    put_drop(put);
    if (publish != NULL)
        ql_delay_finish(&publish->request, err);
    else if (reschedule != NULL)
        ql_delay_reschedule_go_on(delay, reschedule, err);
    else
        ql_space_carried(delay, err);
}

/* --- Subjects. */

static bool
is_named(const void *key, uint32_t value, const void *context)
{
    const struct q_bytes *name = key;
    const struct qlog_delay *delay = context;
    const struct ql_delay_subject *subject = delay->subjects[value];
    return q_bytes_equal(q_bytes_from(subject->name, subject->size), *name);
}

struct ql_delay_subject *
ql_delay_subject(const struct qlog_delay *delay, uint32_t id)
{
    return id < delay->subject_count ? delay->subjects[id] : NULL;
}

enum q_err
ql_delay_need_subject(struct qlog_delay *delay, struct q_bytes name, uint32_t *ret_id)
{
    uint64_t hash = ql_hash(name.data, name.size);
    if (q_map_get(&delay->subjects_by_name, hash, is_named, &name, delay, ret_id)) return Q_OK;
    uint32_t id = delay->subject_count;
    Q_TRY(ql_delay_subject_add(delay, id, name));
    *ret_id = id;
    return Q_OK;
}

enum q_err
ql_delay_subject_add(struct qlog_delay *delay, uint32_t id, struct q_bytes name)
{
    struct ql_delay_subject *known = ql_delay_subject(delay, id);
    if (known != NULL) {
        if (q_bytes_equal(q_bytes_from(known->name, known->size), name)) return Q_OK;
        return Q_FAIL(Q_E_CORRUPT, .what = q_text("subject id %u stands for two subjects", id));
    }
    if (id >= QL_DELAY_SUBJECTS_MAX) return Q_FAIL(Q_TOO_BIG, .what = q_text("subject id %u", id));
    if (id >= delay->subject_capacity) {
        uint32_t capacity = (uint32_t)q_max_u64(64, q_max_u64(delay->subject_capacity * 2, id + 1));
        struct ql_delay_subject **subjects =
            realloc(delay->subjects, capacity * sizeof(subjects[0]));
        if (subjects == NULL) return Q_FAIL(Q_E_NOMEM, .what = "subjects");
        memset(
            subjects + delay->subject_capacity, 0,
            (capacity - delay->subject_capacity) * sizeof(subjects[0]));
        delay->subjects = subjects;
        delay->subject_capacity = capacity;
    }
    struct ql_delay_subject *subject = calloc(1, sizeof(*subject) + name.size + 1);
    if (subject == NULL) return Q_FAIL(Q_E_NOMEM, .what = "a subject");
    subject->id = id;
    subject->size = (uint32_t)name.size;
    memcpy(subject->name, name.data, name.size);
    enum q_err err = q_map_put(&delay->subjects_by_name, ql_hash(name.data, name.size), id);
    if (err != Q_OK) {
        free(subject);
        return err;
    }
    delay->subjects[id] = subject;
    delay->subject_count = (uint32_t)q_max_u64(delay->subject_count, id + 1);
    return Q_OK;
}

void
ql_delay_subjects_free(struct qlog_delay *delay)
{
    for (uint32_t i = 0; i < delay->subject_count; i++)
        free(delay->subjects[i]);
    free(delay->subjects);
    q_map_fini(&delay->subjects_by_name);
}
