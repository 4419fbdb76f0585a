/*
 * received.c: from a pull's answer to the messages a program sees.
 *
 * The answer holds stored batches and the runs that are this consumer's. Everything is checked
 * here, with the hashes that the producer made.
 */
#include <stdlib.h>

#include "consumer.h"

/* A stored batch, and how far it has been walked. */
struct piece {
    struct qbatch batch;
    const uint8_t *payload;
    uint8_t *scratch; /* the content, when it was compressed */
    struct q_bytes content;
    struct qbatch_walk walk;
};

static enum q_err open_pieces(struct qmq_batch *received, const struct answer *answer);
static const Qmq__Wire__PullAnswer *pull_of(const struct answer *answer);
static enum q_err add_piece(
    struct qmq_batch *received, const struct qbatch *batch, const uint8_t *payload);
static enum q_err open_content(struct piece *piece);
static enum q_err take_runs(struct qmq_batch *received, const struct answer *answer, uint64_t *end);
static enum q_err count_messages(
    const struct qmq_batch *received,
    const Qmq__Wire__PullAnswer *pull,
    uint64_t below,
    uint64_t *ret_count);
static enum q_err take_run(struct qmq_batch *received, Qmq__Wire__Run run, uint32_t *piece_index);
static enum q_err find_piece(struct qmq_batch *received, uint64_t sequence, uint32_t *piece_index);
static bool has_sequence(const struct piece *piece, uint64_t sequence);
static enum q_err walk_to(struct piece *piece, uint64_t sequence, struct qbatch_view *ret_view);
static bool cut_run(Qmq__Wire__Run *run, uint64_t below);

enum q_err
received_open(
    struct answer *answer, uint32_t source, uint64_t *received, struct qmq_batch **ret_batch)
{
    struct qmq_batch *batch = calloc(1, sizeof(*batch));
    if (!batch) return Q_FAIL(Q_E_NOMEM);
    batch->source = source;
    batch->is_strict = pull_of(answer)->strict;

    uint64_t end = *received;
    enum q_err err = open_pieces(batch, answer);
    if (err == Q_OK) err = take_runs(batch, answer, &end);
    if (err != Q_OK || batch->message_count == 0) {
        qmq_batch_free(batch);
        *ret_batch = NULL;
        return err;
    }
    batch->buffer = answer->buffer;
    answer->buffer = NULL;
    *ret_batch = batch;
    *received = end;
    return Q_OK;
}

static enum q_err
open_pieces(struct qmq_batch *received, const struct answer *answer)
{
    struct q_bytes payload = answer->payload;
    uint32_t envelopes_length = pull_of(answer)->envelopes_length;
    if (envelopes_length > payload.size)
        return Q_FAIL(
            Q_E_PROTOCOL,
            .what = q_text(
                "%u bytes of envelopes in a payload of %zu", envelopes_length, payload.size));

    struct qbatch_set_walk walk = {
        .envelopes = q_bytes_from(payload.data, envelopes_length),
        .payloads = q_bytes_from(payload.data + envelopes_length, payload.size - envelopes_length),
    };
    enum q_err err;
    struct qbatch batch;
    const uint8_t *batch_payload;
    while ((err = qbatch_set_next(&walk, false, &batch, &batch_payload)) == Q_OK)
        Q_TRY(add_piece(received, &batch, batch_payload));
    if (err != Q_END) return err;

    for (uint32_t index = 0; index < received->piece_count; index++)
        Q_TRY(open_content(&received->pieces[index]));
    return Q_OK;
}

static const Qmq__Wire__PullAnswer *
pull_of(const struct answer *answer)
{
    return (const Qmq__Wire__PullAnswer *)answer->header;
}

static enum q_err
add_piece(struct qmq_batch *received, const struct qbatch *batch, const uint8_t *payload)
{
    uint32_t count = received->piece_count;
    if ((count & (count - 1)) == 0) { /* the array's size is a power of two */
        size_t size = (count ? (size_t)count * 2 : 1) * sizeof(struct piece);
        struct piece *grown = realloc(received->pieces, size);
        if (!grown) return Q_FAIL(Q_E_NOMEM);
        received->pieces = grown;
    }
    received->pieces[count] = (struct piece){ .batch = *batch, .payload = payload };
    received->piece_count++;
    return Q_OK;
}

/* After the array has stopped growing: the walk points into it. */
static enum q_err
open_content(struct piece *piece)
{
    Q_TRY(qbatch_check_payload(&piece->batch, piece->payload));
    if (piece->batch.codec != QBATCH_CODEC_NONE) {
        piece->scratch = malloc(piece->batch.content_length);
        if (!piece->scratch) return Q_FAIL(Q_E_NOMEM);
    }
    Q_TRY(qbatch_content(&piece->batch, piece->payload, piece->scratch, &piece->content));
    qbatch_walk_start(&piece->walk, &piece->batch, piece->content);
    return Q_OK;
}

static enum q_err
take_runs(struct qmq_batch *received, const struct answer *answer, uint64_t *end)
{
    const Qmq__Wire__PullAnswer *pull = pull_of(answer);
    uint64_t below = *end;
    uint64_t count;
    Q_TRY(count_messages(received, pull, below, &count));
    if (count == 0) return Q_OK;
    received->messages = malloc(count * sizeof(*received->messages));
    if (!received->messages) return Q_FAIL(Q_E_NOMEM);

    uint32_t piece_index = 0;
    for (size_t index = 0; index < pull->n_runs; index++) {
        Qmq__Wire__Run run = *pull->runs[index];
        if (!cut_run(&run, below)) continue;
        Q_TRY(take_run(received, run, &piece_index));
        *end = q_max_u64(*end, run.pull_sequence + run.count);
    }
    return Q_OK;
}

static enum q_err
count_messages(
    const struct qmq_batch *received,
    const Qmq__Wire__PullAnswer *pull,
    uint64_t below,
    uint64_t *ret_count)
{
    uint64_t stored = 0;
    for (uint32_t index = 0; index < received->piece_count; index++)
        stored += received->pieces[index].batch.message_count;

    uint64_t count = 0;
    for (size_t index = 0; index < pull->n_runs; index++) {
        Qmq__Wire__Run run = *pull->runs[index];
        uint64_t end;
        if (!q_add_u64(run.pull_sequence, run.count, &end) ||
            !q_add_u64(run.sequence, run.count, &end))
            return Q_FAIL(Q_E_PROTOCOL, .what = "a run ends beyond 64 bits");
        if (cut_run(&run, below)) count += run.count;
    }
    if (count > stored)
        return Q_FAIL(
            Q_E_PROTOCOL, .what = q_text(
                              "runs of %llu messages over batches of %llu",
                              (unsigned long long)count, (unsigned long long)stored));
    *ret_count = count;
    return Q_OK;
}

/* Leave the part of a run that has not come yet; false when there is none. */
static bool
cut_run(Qmq__Wire__Run *run, uint64_t below)
{
    if (run->pull_sequence < below) {
        uint64_t cut = q_min_u64(below - run->pull_sequence, run->count);
        run->pull_sequence += cut;
        run->sequence += cut;
        run->count -= (uint32_t)cut;
    }
    return run->count > 0;
}

static enum q_err
take_run(struct qmq_batch *received, Qmq__Wire__Run run, uint32_t *piece_index)
{
    for (uint32_t index = 0; index < run.count; index++) {
        uint64_t sequence = run.sequence + index;
        struct qbatch_view view;
        Q_TRY(find_piece(received, sequence, piece_index));
        struct piece *piece = &received->pieces[*piece_index];
        Q_TRY(walk_to(piece, sequence, &view));

        received->messages[received->message_count++] = (struct qmq_message){
            .body = { view.body.data, view.body.size },
            .sequence = sequence,
            .pull_sequence = run.pull_sequence + index,
            .source = received->source,
            .attempt = run.attempt,
            .id = { view.id.time_ms, view.id.producer, view.id.counter },
            .stored_ms = piece->batch.store_time_ms,
            .batch_ = &piece->batch,
            .properties_ = { view.properties.data, view.properties.size },
            .tags_ = view.entry.tags,
            .order_key_hash_ = view.entry.order_key_hash,
        };
    }
    return Q_OK;
}

/* Mostly the same piece as before, or the next one. */
static enum q_err
find_piece(struct qmq_batch *received, uint64_t sequence, uint32_t *piece_index)
{
    for (uint32_t step = 0; step < received->piece_count; step++) {
        uint32_t index = (*piece_index + step) % received->piece_count;
        if (!has_sequence(&received->pieces[index], sequence)) continue;
        *piece_index = index;
        return Q_OK;
    }
    return Q_FAIL(
        Q_E_PROTOCOL,
        .what =
            q_text("sequence %llu was announced and did not come", (unsigned long long)sequence));
}

static bool
has_sequence(const struct piece *piece, uint64_t sequence)
{
    uint64_t first = piece->batch.first_sequence;
    return sequence >= first && sequence - first < piece->batch.message_count;
}

static enum q_err
walk_to(struct piece *piece, uint64_t sequence, struct qbatch_view *ret_view)
{
    uint64_t index = sequence - piece->batch.first_sequence;
    if (index < piece->walk.index) qbatch_walk_start(&piece->walk, &piece->batch, piece->content);

    enum q_err err;
    do {
        err = qbatch_walk_next(&piece->walk, false, ret_view);
    } while (err == Q_OK && ret_view->index < index);
    return err;
}

uint64_t
batch_memory(const struct qmq_batch *batch)
{
    uint64_t bytes = qnet_buffer_size(batch->buffer) +
                     batch->message_count * (uint64_t)sizeof(struct qmq_message) +
                     batch->piece_count * (uint64_t)sizeof(struct piece);
    for (uint32_t index = 0; index < batch->piece_count; index++)
        if (batch->pieces[index].scratch) bytes += batch->pieces[index].batch.content_length;
    return bytes;
}

size_t
qmq_batch_count(const struct qmq_batch *batch)
{
    return batch->message_count;
}

const struct qmq_message *
qmq_batch_message(const struct qmq_batch *batch, size_t index)
{
    return index < batch->message_count ? &batch->messages[index] : NULL;
}

void
qmq_batch_free(struct qmq_batch *batch)
{
    if (!batch) return;
    for (uint32_t index = 0; index < batch->piece_count; index++)
        free(batch->pieces[index].scratch);
    free(batch->pieces);
    free(batch->messages);
    qnet_buffer_free(batch->buffer);
    free(batch);
}

bool
qmq_message_property_at(
    const struct qmq_message *message, size_t index, struct qmq_property *ret_property)
{
    struct q_bytes at = q_bytes_from(message->properties_.data, message->properties_.size);
    struct q_bytes key;
    struct q_bytes value;

    while (qbatch_property_next(&at, &key, &value) == Q_OK) {
        if (index-- > 0) continue;
        ret_property->key = (struct qmq_bytes){ key.data, key.size };
        ret_property->value = (struct qmq_bytes){ value.data, value.size };
        return true;
    }
    return false;
}

bool
qmq_message_property(
    const struct qmq_message *message, const char *key, struct qmq_bytes *ret_value)
{
    struct q_bytes at = q_bytes_from(message->properties_.data, message->properties_.size);
    struct q_bytes wanted = q_bytes_from_text(key);
    struct q_bytes found;
    struct q_bytes value;

    while (qbatch_property_next(&at, &found, &value) == Q_OK) {
        if (!q_bytes_equal(found, wanted)) continue;
        *ret_value = (struct qmq_bytes){ value.data, value.size };
        return true;
    }
    return false;
}

bool
qmq_message_tag(const struct qmq_message *message, size_t index, struct qmq_bytes *ret_tag)
{
    const struct qbatch *batch = message->batch_;

    for (uint32_t number = 0; number < batch->tag_count; number++) {
        if (!(message->tags_ >> number & 1)) continue;
        struct q_bytes tag = qbatch_tag_at(batch, number);
        if (tag.size > 0 && tag.data[0] == QBATCH_ONLY) continue;
        if (index-- > 0) continue;
        *ret_tag = (struct qmq_bytes){ tag.data, tag.size };
        return true;
    }
    return false;
}
