/*
 * Damage is found, and nothing outside is read. Runs under AddressSanitizer for the second half.
 */
#include <criterion/criterion.h>

#include <stdio.h>

#include "batch_maker.h"

static enum q_err
open_made(const struct made_batch *made)
{
    struct qbatch batch;
    return qbatch_open(q_bytes_from(made->envelope, made->envelope_size), &batch);
}

/* Every change of one byte of the producer's part is found, wherever it is and whatever it is. */
Test(batch_check, every_byte_of_the_envelope)
{
    struct made_batch made = make_random_batch(7, 8, false);
    for (uint32_t at = QBATCH_PREFIX_SIZE; at < made.envelope_size; at++) {
        uint8_t good = made.envelope[at];
        for (unsigned change = 1; change < 256; change++) {
            made.envelope[at] = (uint8_t)(good ^ change);
            enum q_err err = open_made(&made);
            cr_assert(err == Q_E_CORRUPT || (err == Q_E_VERSION && at == QBATCH_VERSION));
        }
        made.envelope[at] = good;
    }
    cr_assert_eq(open_made(&made), Q_OK);
    made_batch_free(&made);
}

/* The broker's prefix is not the producer's: filling it leaves the batch valid, and is read back. */
Test(batch_check, prefix)
{
    struct made_batch made = make_random_batch(8, 3, false);
    qbatch_set_prefix(made.envelope, 12, UINT64_C(1) << 40, 1768104902113);
    struct qbatch batch = made_batch_open(&made);
    cr_assert_eq(batch.subject_id, 12);
    cr_assert_eq(batch.first_sequence, UINT64_C(1) << 40);
    cr_assert_eq(batch.store_time_ms, 1768104902113);
    cr_assert_eq(q_load_le16(made.envelope), QBATCH_RECORD_KIND_BATCH);
    cr_assert_eq(q_load_le32(made.envelope + 4), made.envelope_size);
    made_batch_free(&made);
}

/* Every change of one byte of the payload is found, its padding included. */
Test(batch_check, every_byte_of_the_payload)
{
    for (int compress = 0; compress < 2; compress++) {
        struct made_batch made = make_random_batch(9, 5, compress);
        struct qbatch batch = made_batch_open(&made);
        cr_assert_eq(batch.codec, compress ? QBATCH_CODEC_LZ4 : QBATCH_CODEC_NONE);
        for (uint32_t at = 0; at < made.payload_size; at++) {
            for (unsigned bit = 0; bit < 8; bit++) {
                made.payload[at] ^= (uint8_t)(1u << bit);
                cr_assert_eq(qbatch_check_payload(&batch, made.payload), Q_E_CORRUPT);
                made.payload[at] ^= (uint8_t)(1u << bit);
            }
        }
        cr_assert_eq(qbatch_check_payload(&batch, made.payload), Q_OK);
        made_batch_free(&made);
    }
}

/* An envelope that ends too early is refused at every length, with and without trust. */
Test(batch_check, truncated)
{
    struct made_batch made = make_random_batch(10, 8, false);
    for (uint32_t size = 0; size < made.envelope_size; size++) {
        uint8_t *cut = malloc(size > 0 ? size : 1);
        struct qbatch batch;
        memcpy(cut, made.envelope, size);
        cr_assert_eq(qbatch_open(q_bytes_from(cut, size), &batch), Q_E_CORRUPT);
        cr_assert_eq(qbatch_open_trusted(q_bytes_from(cut, size), &batch), Q_E_CORRUPT);
        free(cut);
    }
    made_batch_free(&made);
}

/* More bytes behind an envelope are not part of it. */
Test(batch_check, longer)
{
    struct made_batch made = make_random_batch(11, 2, false);
    uint8_t *longer = malloc(made.envelope_size + 5);
    struct qbatch batch;
    memset(longer, 0xFF, made.envelope_size + 5);
    memcpy(longer, made.envelope, made.envelope_size);
    cr_assert_eq(qbatch_open(q_bytes_from(longer, made.envelope_size + 5), &batch), Q_OK);
    cr_assert_eq(batch.envelope_length, made.envelope_size);
    free(longer);
    made_batch_free(&made);
}

/* Walk over everything that can be reached from an opened batch. */
static void
touch_all(const struct qbatch *batch, const struct made_batch *made)
{
    struct qbatch_entry entry;
    for (uint32_t i = 0; i < batch->message_count; i++)
        qbatch_entry_at(batch, i, &entry);
    for (uint32_t i = 0; i < batch->tag_count; i++)
        (void)qbatch_tag_at(batch, i);
    if (batch->payload_padded_length > made->payload_size) return;
    (void)!qbatch_check_payload(batch, made->payload);
    uint8_t *scratch = malloc(batch->content_length);
    struct q_bytes content;
    if (qbatch_content(batch, made->payload, scratch, &content) == Q_OK) {
        struct qbatch_walk walk;
        struct qbatch_view view;
        qbatch_walk_start(&walk, batch, content);
        while (qbatch_walk_next(&walk, false, &view) == Q_OK) {
            struct q_bytes key;
            struct q_bytes value;
            while (qbatch_property_next(&view.properties, &key, &value) == Q_OK)
                (void)q_is_zero(value.data, value.size);
        }
    }
    free(scratch);
}

/* Damaged envelopes with a right hash, opened with or without trust, lead to no read outside. */
Test(batch_check, rehashed_damage_stays_inside, .timeout = 100)
{
    for (int compress = 0; compress < 2; compress++) {
        struct made_batch made = make_random_batch(12, 6, compress);
        struct random_source random = random_from_seed(13);
        uint8_t *good = malloc(made.envelope_size);
        memcpy(good, made.envelope, made.envelope_size);
        unsigned opened = 0;
        for (int round = 0; round < 30000; round++) {
            for (uint32_t changes = 1 + random_below(&random, 3); changes > 0; changes--) {
                uint32_t at =
                    QBATCH_MAGIC + random_below(&random, made.envelope_size - QBATCH_MAGIC);
                made.envelope[at] = (uint8_t)random_below(&random, 256);
            }
            made_batch_rehash(&made);
            struct qbatch batch;
            struct q_bytes bytes = q_bytes_from(made.envelope, made.envelope_size);
            if (qbatch_open(bytes, &batch) == Q_OK) {
                touch_all(&batch, &made);
                opened++;
            }
            if (qbatch_open_trusted(bytes, &batch) == Q_OK) touch_all(&batch, &made);
            memcpy(made.envelope, good, made.envelope_size);
        }
        cr_assert_gt(opened, 100);
        free(good);
        made_batch_free(&made);
    }
}

/* A field of the envelope, and a value that is wrong there though the hash is right. */
struct wrong {
    uint32_t at;
    uint32_t bytes;
    uint64_t value;
    uint32_t position;
    const char *text;
};

static void
assert_all_wrong(struct made_batch *made, const struct wrong *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint8_t good[8];
        memcpy(good, made->envelope + cases[i].at, cases[i].bytes);
        memcpy(made->envelope + cases[i].at, &cases[i].value, cases[i].bytes);
        made_batch_rehash(made);
        cr_assert_neq(open_made(made), Q_OK, "%s", cases[i].text);
        cr_assert_str_eq(
            q_fault_last()->what, cases[i].text, "'%s' is not '%s'", q_fault_last()->what,
            cases[i].text);
        cr_assert_eq(q_fault_last()->position, cases[i].position, "%s", cases[i].text);
        memcpy(made->envelope + cases[i].at, good, cases[i].bytes);
    }
    made_batch_rehash(made);
    cr_assert_eq(open_made(made), Q_OK);
}

/* Each field is checked for itself, and the fault names it and its byte. */
Test(batch_check, fields)
{
    struct qbatch_builder *builder = make_builder(false);
    struct q_bytes words[] = { q_bytes_from_text("one"), q_bytes_from_text("two") };
    struct qbatch_message message = {
        .body = q_bytes_from_text("0123456789ab"),
        .tags = words,
        .tag_count = 2,
        .keys = words,
        .key_count = 2,
        .time_ms = 1000,
    };
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    struct made_batch made = make_batch(builder);
    qbatch_builder_free(builder);
    /* 128 header, 64 entries, 64 keys, 8 tags; content of 2 x (4 + 22 + 12) bytes. */
    cr_assert_eq(made.envelope_size, 264);

    static const struct wrong cases[] = {
        { 40, 4, 0x31544251, 40, "magic number 31544251 is not that of a batch" },
        { 44, 1, 1, 44, "version 1 of a batch is unknown" },
        { 45, 1, 2, 45, "codec 2 is unknown" },
        { 46, 2, 3, 46, "flags 0003 of a batch are unknown" },
        { 46, 2, 4, 46, "flags 0004 of a batch are unknown" },
        { 48, 4, 272, 48, "envelope length 272 of 264 bytes is wrong" },
        { 48, 4, 120, 48, "envelope length 120 of 264 bytes is wrong" },
        { 48, 4, 260, 48, "envelope length 260 of 264 bytes is wrong" },
        { 48, 4, 0xFFFFFFF8, 48, "envelope length 4294967288 of 264 bytes is wrong" },
        { 48, 4, 248, 48, "envelope length 248 has no room for 2 entries and 4 keys" },
        { 48, 4, 256, 256, "tag 0 does not end within the envelope" },
        { 52, 4, 75, 52, "payload length 75 does not fit content length 76" },
        { 52, 4, 77, 52, "payload length 77 does not fit content length 76" },
        { 45, 1, 1, 52, "payload length 76 does not fit content length 76" },
        { 56, 4, 7, 56, "content length 7 does not fit 2 messages" },
        { 56, 4, 4259841, 56, "content length 4259841 does not fit 2 messages" },
        { 60, 4, 0, 60, "message count 0 is not between 1 and 10000" },
        { 60, 4, 10001, 60, "message count 10001 is not between 1 and 10000" },
        { 60, 4, 0xFFFFFFFF, 60, "message count 4294967295 is not between 1 and 10000" },
        { 60, 4, 10000, 48, "envelope length 264 has no room for 10000 entries and 4 keys" },
        { 64, 4, 17, 64, "key count 17 exceeds 8 for each message" },
        { 64, 4, 0xFFFFFFFF, 64, "key count 4294967295 exceeds 8 for each message" },
        { 64, 4, 3, 242, "tag 1 does not end within the envelope" },
        { 68, 2, 65, 68, "tag count 65 exceeds 64" },
        { 68, 2, 3, 264, "tag 2 does not end within the envelope" },
        { 68, 2, 1, 260, "4 bytes of envelope padding are wrong" },
        { 70, 2, 1, 70, "header pad not zero" },
        { 72, 8, UINT64_C(1) << 48, 72, "base time 281474976710656 ms is not below 2^48" },
        { 104, 4, 5, 104, "batch 5 of a request of 5" },
        { 108, 4, 0, 104, "batch 2 of a request of 0" },
        { 120, 8, 1, 120, "due time or origin 1 is wrong" },
        { 128, 4, 3, 128, "length 3 of message 0 is wrong" },
        { 160, 4, 0xFFFFFFFF, 160, "length 4294967295 of message 1 is wrong" },
        { 160, 4, 37, 56, "content length is 76, messages have 75 bytes" },
        { 136, 8, 4, 136, "tags 4 of message 0 are wrong" },
        { 136, 8, UINT64_C(1) << 63, 136, "tags 8000000000000000 of message 0 are wrong" },
        { 156, 4, 1, 156, "flags of message 0 are not zero" },
        { 192, 4, 2, 192, "key 0 of message 2 is wrong" },
        { 192, 4, 1, 208, "key 1 of message 0 is wrong" },
        { 196, 4, 1, 196, "pad of key 0 is not zero" },
        { 256, 1, 0, 256, "tag 0 does not end within the envelope" },
        { 256, 1, 255, 256, "tag 0 does not end within the envelope" },
        { 257, 1, 0, 256, "tag 0 holds a NUL byte" },
        { 257, 3, 'w' << 8 | 't' | 'o' << 16, 260, "tag 1 is tag 0 again" },
    };
    assert_all_wrong(&made, cases, sizeof(cases) / sizeof(cases[0]));
    made_batch_free(&made);
}

/* What a payload may decompress to is bounded by its own length before a byte of it is looked at. */
Test(batch_check, no_payload_decompresses_to_that_much)
{
    enum {
        BODY = 1024 * 1024
    };
    struct qbatch_builder *builder = make_builder(true);
    uint8_t *body = calloc(1, BODY);
    cr_assert_not_null(body);
    struct qbatch_message message = { .body = q_bytes_from(body, BODY), .time_ms = 1 };
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    struct made_batch made = make_batch(builder);
    static const struct wrong wrong[] = {
        { 52, 4, 4000, 56, "4000 bytes can't decompress to 1048580" },
        { 52, 4, 0, 52, "payload length 0 does not fit content length 1048580" },
        { 52, 4, 1048580, 52, "payload length 1048580 does not fit content length 1048580" },
    };
    assert_all_wrong(&made, wrong, sizeof(wrong) / sizeof(wrong[0]));
    made_batch_free(&made);
    qbatch_builder_free(builder);
    free(body);
}

/* A message time beyond 48 bits is found though base and delta are each in range. */
Test(batch_check, time_beyond)
{
    struct qbatch_builder *builder = make_builder(false);
    struct qbatch_message message = { .time_ms = (UINT64_C(1) << 48) - 2 };
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    struct made_batch made = make_batch(builder);
    static const struct wrong wrong = { 148, 4, 2, 148, "time of message 0 is not below 2^48 ms" };
    assert_all_wrong(&made, &wrong, 1);
    made_batch_free(&made);
    qbatch_builder_free(builder);
}

/* A message with more keys than it may have is found though another one has room for them. */
Test(batch_check, too_many_keys)
{
    struct qbatch_builder *builder = make_builder(false);
    struct q_bytes keys[8];
    for (size_t i = 0; i < 8; i++)
        keys[i] = q_bytes_from_text("key");
    struct qbatch_message message = { .keys = keys, .key_count = 8 };
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    message.key_count = 1;
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    struct made_batch made = make_batch(builder);
    static const struct wrong wrong = { 320, 4, 0, 320, "key 8 of message 0 is wrong" };
    assert_all_wrong(&made, &wrong, 1);
    made_batch_free(&made);
    qbatch_builder_free(builder);
}

/* An envelope that goes on after its padding is refused, even with zeros. */
Test(batch_check, padding_too_long)
{
    struct made_batch made = make_random_batch(15, 2, false);
    made.envelope = realloc(made.envelope, made.envelope_size + 8);
    memset(made.envelope + made.envelope_size, 0, 8);
    made.envelope_size += 8;
    q_store_le32(made.envelope + QBATCH_ENVELOPE_LENGTH, made.envelope_size);
    made_batch_rehash(&made);
    cr_assert_eq(open_made(&made), Q_E_CORRUPT);
    cr_assert_not_null(strstr(q_fault_last()->what, "envelope padding"));
    made_batch_free(&made);
}

/* A message with more tags than it may have is found. */
Test(batch_check, too_many_tags)
{
    char texts[12][4];
    struct qbatch_builder *builder = make_builder(false);
    for (int i = 0; i < 12; i++) {
        (void)snprintf(texts[i], sizeof(texts[i]), "%d", i);
        struct q_bytes tag = q_bytes_from_text(texts[i]);
        struct qbatch_message message = { .tags = &tag, .tag_count = 1 };
        cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    }
    struct made_batch made = make_batch(builder);
    static const struct wrong wrong = { 136, 8, 0xFFF, 136, "tags fff of message 0 are wrong" };
    assert_all_wrong(&made, &wrong, 1);
    made_batch_free(&made);
    qbatch_builder_free(builder);
}

/* A compressed batch that claims to hold more than LZ4 can make of it is refused when opened. */
Test(batch_check, bomb)
{
    static const uint8_t zeros[1000];
    struct qbatch_builder *builder = make_builder(true);
    struct qbatch_message message = { .body = q_bytes_from(zeros, sizeof(zeros)) };
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    struct made_batch made = make_batch(builder);
    struct qbatch batch = made_batch_open(&made);
    char text[64];
    (void)snprintf(
        text, sizeof(text), "%u bytes can't decompress to 4194304", batch.payload_length);
    struct wrong wrong = { 56, 4, 4194304, 56, text };
    assert_all_wrong(&made, &wrong, 1);
    made_batch_free(&made);
    qbatch_builder_free(builder);
}

/* A compressed payload that decompresses to another length, or not at all, is damaged. */
Test(batch_check, decompression)
{
    struct made_batch made = make_random_batch(14, 4, true);
    struct qbatch batch = made_batch_open(&made);
    uint8_t *scratch = malloc(batch.content_length + 1);
    struct q_bytes content;
    batch.content_length--;
    cr_assert_eq(qbatch_content(&batch, made.payload, scratch, &content), Q_E_CORRUPT);
    batch.content_length += 2;
    cr_assert_eq(qbatch_content(&batch, made.payload, scratch, &content), Q_E_CORRUPT);
    batch.content_length--;
    memset(made.payload, 0xFF, made.payload_size);
    cr_assert_eq(qbatch_content(&batch, made.payload, scratch, &content), Q_E_CORRUPT);
    free(scratch);
    made_batch_free(&made);
}

static struct qbatch_set_walk
set_of(const struct made_batch *batches, size_t count, uint8_t **envelopes, uint8_t **payloads)
{
    struct qbatch_set_walk walk = { 0 };
    for (size_t i = 0; i < count; i++) {
        walk.envelopes.size += batches[i].envelope_size;
        walk.payloads.size += batches[i].payload_size;
    }
    *envelopes = malloc(walk.envelopes.size);
    *payloads = malloc(walk.payloads.size);
    walk.envelopes.data = *envelopes;
    walk.payloads.data = *payloads;
    uint8_t *envelope = *envelopes;
    uint8_t *payload = *payloads;
    for (size_t i = 0; i < count; i++) {
        memcpy(envelope, batches[i].envelope, batches[i].envelope_size);
        memcpy(payload, batches[i].payload, batches[i].payload_size);
        envelope += batches[i].envelope_size;
        payload += batches[i].payload_size;
    }
    return walk;
}

/* A set gives each batch with its payload, and says when one of the two parts is left over. */
Test(batch_check, sets)
{
    struct made_batch batches[3];
    for (uint32_t i = 0; i < 3; i++)
        batches[i] = make_random_batch(20 + i, 1 + 3 * i, i == 1);
    uint8_t *envelopes;
    uint8_t *payloads;
    const struct qbatch_set_walk whole = set_of(batches, 3, &envelopes, &payloads);
    for (int trusted = 0; trusted < 2; trusted++) {
        struct qbatch_set_walk walk = whole;
        struct qbatch batch;
        const uint8_t *payload = NULL;
        for (uint32_t i = 0; i < 3; i++) {
            cr_assert_eq(qbatch_set_next(&walk, trusted, &batch, &payload), Q_OK);
            cr_assert_eq(batch.message_count, 1 + 3 * i);
            cr_assert_eq(qbatch_check_payload(&batch, payload), Q_OK);
        }
        cr_assert_eq(qbatch_set_next(&walk, trusted, &batch, &payload), Q_END);

        walk = whole;
        walk.payloads.size -= 8;
        cr_assert_eq(qbatch_set_next(&walk, trusted, &batch, &payload), Q_OK);
        cr_assert_eq(qbatch_set_next(&walk, trusted, &batch, &payload), Q_OK);
        cr_assert_eq(qbatch_set_next(&walk, trusted, &batch, &payload), Q_E_CORRUPT);

        walk = whole;
        walk.envelopes.size -= batches[2].envelope_size;
        cr_assert_eq(qbatch_set_next(&walk, trusted, &batch, &payload), Q_OK);
        cr_assert_eq(qbatch_set_next(&walk, trusted, &batch, &payload), Q_OK);
        cr_assert_eq(qbatch_set_next(&walk, trusted, &batch, &payload), Q_E_CORRUPT);

        walk = (struct qbatch_set_walk){ 0 };
        cr_assert_eq(qbatch_set_next(&walk, trusted, &batch, &payload), Q_END);
    }
    free(envelopes);
    free(payloads);
    for (int i = 0; i < 3; i++)
        made_batch_free(&batches[i]);
}

/* A set that ends before a payload's padding is refused: the padding belongs to the payload. */
Test(batch_check, set_without_padding)
{
    struct qbatch_builder *builder = make_builder(false);
    struct qbatch_message message = { .body = q_bytes_from_text("x") };
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    struct made_batch made = make_batch(builder);
    struct qbatch_set_walk walk = {
        .envelopes = q_bytes_from(made.envelope, made.envelope_size),
        .payloads = q_bytes_from(made.payload, 5),
    };
    struct qbatch batch;
    const uint8_t *payload = NULL;
    cr_assert_eq(qbatch_set_next(&walk, false, &batch, &payload), Q_E_CORRUPT);
    made_batch_free(&made);
    qbatch_builder_free(builder);
}
