/*
 * store/frame.c: is a frame, which an index file speaks of, still there?
 *
 * A start reads only the end of the message log. What lies before it may have rotted since it was
 * written, so a batch is looked at before it is handed out.
 */
#include "store/store.h"

#include <qbatch/batch.h>
#include <qlog/guard.h>

struct look {
    const struct qlog_store *store;
    const struct ql_subject *subject;
    const struct ql_entry *entry;
    struct ql_segment *segment;
    const uint8_t *data;
};

static enum q_err look_at(void *context);
static bool frame_is_whole(
    const struct qlog_store *store,
    const struct ql_segment *segment,
    const uint8_t *data,
    const struct ql_entry *entry);
static bool batch_is_whole(
    const struct ql_subject *subject, const uint8_t *data, const struct ql_entry *entry);

bool
ql_store_entry_is_whole(
    struct qlog_store *store, const struct ql_subject *subject, const struct ql_entry *entry)
{
    if (entry->frame >= store->index.trusted) return true;
    struct look look = { .store = store, .subject = subject, .entry = entry };
    enum q_err err =
        ql_log_view(store->messages, entry->frame, entry->frame_size, &look.data, &look.segment);
    /* Whoever wants bytes that can't be had meets the same, and says so. */
    if (err != Q_OK) return true;
    err = qlog_guard(look_at, &look);
    ql_segment_unpin(look.segment);
    if (err == Q_OK) store->whole_frame = entry->frame + 1;
    if (err != Q_E_CORRUPT) return true;
    QL_TELL(
        &store->home->env, ROT, .log = store->messages->name, .path = store->home->env.path,
        .position = entry->frame, .bytes = entry->frame_size,
        .text = q_text(
            "damaged below the durable mark: messages %llu to %llu of \"%s\" are not handed out",
            (unsigned long long)entry->first_sequence, (unsigned long long)ql_entry_end(entry) - 1,
            subject->name));
    return false;
}

static enum q_err
look_at(void *context)
{
    const struct look *look = context;
    bool whole = frame_is_whole(look->store, look->segment, look->data, look->entry) &&
                 batch_is_whole(look->subject, look->data, look->entry);
    return whole ? Q_OK : Q_E_CORRUPT;
}

static bool
frame_is_whole(
    const struct qlog_store *store,
    const struct ql_segment *segment,
    const uint8_t *data,
    const struct ql_entry *entry)
{
    if (store->whole_frame == entry->frame + 1) return true;
    struct ql_frame frame;
    if (ql_frame_decode(data, &frame) != QL_BLOCK_GOOD) return false;
    if (frame.position != entry->frame || frame.incarnation != segment->incarnation) return false;
    if (ql_frame_size(frame.body_length) != entry->frame_size) return false;
    return ql_hash(data + QL_FRAME_HEADER_SIZE, frame.records_length) == frame.records_hash;
}

static bool
batch_is_whole(const struct ql_subject *subject, const uint8_t *data, const struct ql_entry *entry)
{
    struct qbatch batch;
    struct q_bytes envelope = q_bytes_from(data + entry->envelope_at, entry->envelope_size);
    if (qbatch_open_trusted(envelope, &batch) != Q_OK) return false;
    bool same = batch.subject_id == subject->id && batch.first_sequence == entry->first_sequence &&
                batch.message_count == entry->count &&
                batch.payload_padded_length == entry->payload_size;
    return same && qbatch_check_payload(&batch, data + entry->payload_at) == Q_OK;
}
