/*
 * store/peek.c: messages for whoever looks, without a group. Changes nothing.
 */
#include "format/block.h"
#include "store/store.h"

static enum q_err peek(
    struct qlog_store *store, struct qlog_peek *peek, struct ql_subject *subject);
static enum q_err peek_entry(
    struct qlog_store *store,
    const struct qlog_peek *peek,
    struct ql_subject *subject,
    uint64_t *sequence,
    struct ql_entry *ret_entry);
static bool peek_has_room(
    const struct qlog_pull *pull, const struct ql_entry *entry, uint64_t bytes);
static void peek_run(struct qlog_pull *pull, uint64_t sequence, uint64_t count);

void
ql_peek_start(struct qlog_store *store, struct qlog_peek *request)
{
    struct qlog_pull *pull = &request->pull;
    struct ql_subject *subject;
    pull->run_count = 0;
    pull->piece_count = 0;
    pull->unacked = 0;
    pull->waiting = 0;
    pull->held = QLOG_HELD_NOT;
    enum q_err err = ql_index_find(&store->index, pull->who.subject, &subject);
    if (err == Q_NOT_FOUND)
        err = Q_FAIL(
            Q_NOT_FOUND, .what = q_text(
                             "no subject \"%.*s\"", (int)pull->who.subject.size,
                             (const char *)pull->who.subject.data));
    if (err == Q_OK && (pull->messages_max == 0 || pull->runs_max == 0 || pull->pieces_max == 0))
        err = Q_FAIL(Q_INVALID, .what = "a look at no messages");
    if (err == Q_OK) err = peek(store, request, subject);
    if (err != Q_OK) qlog_pull_release(pull);
    ql_request_finish(&pull->request, err);
}

/* What is in memory, up to what is not; that and what lies behind it is wanted from the disk, as far
 * as it would fit an answer. */
static enum q_err
peek(struct qlog_store *store, struct qlog_peek *peek, struct ql_subject *subject)
{
    struct qlog_pull *pull = &peek->pull;
    uint64_t end = ql_store_visible_end(store, subject);
    uint64_t sequence;
    Q_TRY(ql_store_start(store, subject, peek->start, peek->at, &sequence));
    /* Behind the end, on purpose or because it went back: what comes there is what is waited for. */
    if (peek->start == QLOG_START_SEQUENCE) sequence = q_max_u64(sequence, peek->at);
    peek->next = sequence;

    uint64_t bytes = 0;
    uint64_t messages = 0;
    bool fetching = false;
    while (sequence < end && messages < pull->messages_max) {
        struct ql_entry entry;
        enum q_err err = peek_entry(store, peek, subject, &sequence, &entry);
        if (err < Q_OK) return err;
        if (err != Q_OK || entry.first_sequence >= end) {
            if (!fetching) peek->next = err == Q_AGAIN ? q_min_u64(sequence, end) : end;
            break;
        }
        sequence = q_max_u64(sequence, entry.first_sequence);
        if (!peek_has_room(pull, &entry, bytes)) break;
        bytes += (uint64_t)entry.envelope_size + entry.payload_size;
        uint64_t stop = q_min_u64(ql_entry_end(&entry), end);
        uint64_t count = q_min_u64(stop - sequence, pull->messages_max - messages);
        struct qlog_piece piece;
        err = ql_fetch_plain(store, subject, &entry, &piece);
        fetching |= err == Q_AGAIN;
        if (err == Q_OK && fetching) ql_fetch_release(&piece);
        if (err != Q_OK && err != Q_AGAIN && err != Q_E_CORRUPT) {
            if (pull->run_count == 0 && !fetching) return err;
            break;
        }
        messages += count;
        sequence += count;
        if (fetching) continue;
        peek->next = sequence;
        if (err != Q_OK) continue; /* damaged, which was told */
        pull->pieces[pull->piece_count++] = piece;
        peek_run(pull, sequence - count, count);
    }
    pull->waiting = end > peek->next ? end - peek->next : 0;
    return Q_OK;
}

/* The next batch that is wanted. Q_OK; Q_AGAIN: not below `*sequence`; Q_NOT_FOUND: there is none. */
static enum q_err
peek_entry(
    struct qlog_store *store,
    const struct qlog_peek *peek,
    struct ql_subject *subject,
    uint64_t *sequence,
    struct ql_entry *ret_entry)
{
    if (peek->key.size == 0) return ql_index_entry(&store->index, subject, *sequence, ret_entry);
    uint64_t hash = ql_hash(peek->key.data, peek->key.size);
    enum q_err err = ql_index_key(&store->index, subject, hash, sequence, ret_entry);
    return err == Q_NOT_FOUND ? Q_AGAIN : err;
}

static bool
peek_has_room(const struct qlog_pull *pull, const struct ql_entry *entry, uint64_t bytes)
{
    if (bytes == 0) return true;
    uint64_t size = (uint64_t)entry->envelope_size + entry->payload_size;
    return pull->piece_count < pull->pieces_max && pull->run_count < pull->runs_max &&
           bytes + size <= pull->bytes_max;
}

static void
peek_run(struct qlog_pull *pull, uint64_t sequence, uint64_t count)
{
    struct qlog_run *last = pull->run_count > 0 ? &pull->runs[pull->run_count - 1] : NULL;
    if (last != NULL && last->sequence + last->count == sequence) {
        last->count += (uint32_t)count;
        return;
    }
    pull->runs[pull->run_count++] = (struct qlog_run){
        .pull_sequence = sequence,
        .sequence = sequence,
        .count = (uint32_t)count,
    };
}
