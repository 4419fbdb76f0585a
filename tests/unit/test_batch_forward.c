/*
 * What is forwarded is a batch of its own, with the same messages and the same ids.
 */
#include <criterion/criterion.h>

#include <qbatch/forward.h>

#include "batch_maker.h"

static const uint8_t forwarder[16] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 };

static struct made_batch
forward(const struct qbatch *batch, const struct made_batch *made, uint32_t first, uint32_t count)
{
    uint8_t *scratch = malloc(batch->content_length);
    struct qbatch_forward forward = {
        .batch = batch,
        .payload = made->payload,
        .first = first,
        .count = count,
        .place = { .request_sequence = 7, .request_index = 1, .request_count = 3 },
    };
    memcpy(forward.producer_id, forwarder, sizeof(forwarder));
    cr_assert_eq(qbatch_content(batch, made->payload, scratch, &forward.content), Q_OK);
    struct made_batch out;
    qbatch_forward_size(&forward, &out.envelope_size, &out.payload_size);
    out.envelope = malloc(out.envelope_size);
    out.payload = malloc(out.payload_size);
    qbatch_forward_write(&forward, out.envelope, out.payload);
    free(scratch);
    return out;
}

/* Entry, id, tags and keys of message `at` of `part` are those of message `first + at` of `all`. */
static void
assert_same(const struct qbatch *all, const struct qbatch *part, uint32_t first, uint32_t at)
{
    struct qbatch_entry was;
    struct qbatch_entry is;
    qbatch_entry_at(all, first + at, &was);
    qbatch_entry_at(part, at, &is);
    cr_assert_eq(was.length, is.length);
    cr_assert_eq(was.hash, is.hash);
    cr_assert_eq(was.tags, is.tags);
    cr_assert_eq(was.order_key_hash, is.order_key_hash);
    struct qbatch_id id_was = qbatch_id_at(all, first + at);
    struct qbatch_id id_is = qbatch_id_at(part, at);
    cr_assert_eq(id_was.time_ms, id_is.time_ms);
    cr_assert_eq(id_was.producer, id_is.producer);
    cr_assert_eq(id_was.counter, id_is.counter);
}

static void
assert_forwards(bool compress, uint64_t seed)
{
    struct made_batch made = make_random_batch(seed, 9, compress);
    struct qbatch batch = made_batch_open(&made);
    for (uint32_t first = 0; first < batch.message_count; first++)
        for (uint32_t count = 1; count <= batch.message_count - first; count++) {
            struct made_batch out = forward(&batch, &made, first, count);
            struct qbatch part = made_batch_open(&out);
            uint8_t *scratch = malloc(part.content_length);
            struct q_bytes content;
            cr_assert_eq(qbatch_check_payload(&part, out.payload), Q_OK);
            cr_assert_eq(qbatch_content(&part, out.payload, scratch, &content), Q_OK);
            cr_assert_eq(part.message_count, count);
            cr_assert_eq(part.request_sequence, 7);
            cr_assert_eq(part.request_index, 1);
            cr_assert_eq(part.request_count, 3);
            cr_assert_arr_eq(part.producer_id, forwarder, 16);
            cr_assert_not(part.delayed);
            struct qbatch_walk walk;
            struct qbatch_view view;
            qbatch_walk_start(&walk, &part, content);
            for (uint32_t at = 0; at < count; at++) {
                cr_assert_eq(qbatch_walk_next(&walk, true, &view), Q_OK);
                assert_same(&batch, &part, first, at);
            }
            cr_assert_eq(qbatch_walk_next(&walk, true, &view), Q_END);
            free(scratch);
            made_batch_free(&out);
        }
    made_batch_free(&made);
}

Test(batch_forward, every_part)
{
    for (uint64_t seed = 1; seed <= 8; seed++)
        assert_forwards(false, seed);
}

Test(batch_forward, every_part_of_a_compressed_one)
{
    for (uint64_t seed = 1; seed <= 8; seed++)
        assert_forwards(true, seed);
}

/* Sent on twice, a message still has the id that its producer gave it. */
Test(batch_forward, twice)
{
    struct made_batch made = make_random_batch(3, 4, false);
    struct qbatch batch = made_batch_open(&made);
    struct made_batch once = forward(&batch, &made, 1, 3);
    struct qbatch second = made_batch_open(&once);
    struct made_batch twice = forward(&second, &once, 1, 2);
    struct qbatch third = made_batch_open(&twice);
    assert_same(&batch, &third, 2, 0);
    assert_same(&batch, &third, 2, 1);
    made_batch_free(&made);
    made_batch_free(&once);
    made_batch_free(&twice);
}

/* A due time is told, and is gone once the batch is sent on. */
Test(batch_forward, due)
{
    struct qbatch_builder *builder = make_builder(false);
    struct qbatch_message message = { .body = q_bytes_from_text("later"), .time_ms = 5 };
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    struct made_batch made;
    struct qbatch_request_place place = { .request_count = 1, .due_ms = UINT64_C(1999999999999) };
    cr_assert_eq(qbatch_builder_close(builder, &made.envelope_size, &made.payload_size), Q_OK);
    made.envelope = malloc(made.envelope_size);
    made.payload = malloc(made.payload_size);
    qbatch_builder_write(builder, &place, made.envelope, made.payload);
    qbatch_builder_free(builder);
    struct qbatch batch = made_batch_open(&made);
    cr_assert(batch.delayed);
    cr_assert_eq(batch.due_ms, UINT64_C(1999999999999));
    struct made_batch out = forward(&batch, &made, 0, 1);
    struct qbatch sent = made_batch_open(&out);
    cr_assert_not(sent.delayed);
    cr_assert_eq(sent.due_ms, 0);
    assert_same(&batch, &sent, 0, 0);
    made_batch_free(&made);
    made_batch_free(&out);
}
