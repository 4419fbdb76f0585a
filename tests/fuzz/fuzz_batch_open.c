/*
 * Sets of batches from strangers: opened, decompressed, walked, filtered. Nothing may be read
 * outside, and what the full check accepts must hold in every detail.
 *
 * Input: u32 length of the envelopes, envelopes, payloads. A fuzzer can't guess hashes, so each
 * input is tried as it is and with its hashes made right.
 */
#include <stdlib.h>

#include <xxhash.h>

#include <qbase/assert.h>
#include <qbatch/batch.h>

enum {
    HEAD_SIZE = 4
};

/* NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_set(struct qbatch_set_walk set, bool trusted);
static void try_batch(const struct qbatch *batch, const uint8_t *payload, bool trusted);
static void try_walk(const struct qbatch *batch, struct q_bytes content);
static void try_view(const struct qbatch *batch, const struct qbatch_view *view);
static void try_filter(const struct qbatch *batch);
static void mend_hashes(
    uint8_t *envelopes, size_t envelopes_size, const uint8_t *payloads, size_t payloads_size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < HEAD_SIZE) return 0;
    uint32_t envelopes_size = q_load_le32(data);
    if (envelopes_size > size - HEAD_SIZE) return 0;

    /* Blocks of their own, so that a read beyond either part is seen. */
    size_t payloads_size = size - HEAD_SIZE - envelopes_size;
    uint8_t *envelopes = malloc(envelopes_size + 1);
    uint8_t *payloads = malloc(payloads_size + 1);
    Q_ASSERT(envelopes != NULL);
    Q_ASSERT(payloads != NULL);
    uint8_t *envelopes_data = envelopes + 1;
    uint8_t *payloads_data = payloads + 1;
    memcpy(envelopes_data, data + HEAD_SIZE, envelopes_size);
    memcpy(payloads_data, data + HEAD_SIZE + envelopes_size, payloads_size);
    struct qbatch_set_walk set = {
        .envelopes = q_bytes_from(envelopes_data, envelopes_size),
        .payloads = q_bytes_from(payloads_data, payloads_size),
    };

    try_set(set, false);
    try_set(set, true);
    mend_hashes(envelopes_data, envelopes_size, payloads_data, payloads_size);
    try_set(set, false);
    free(envelopes);
    free(payloads);
    return 0;
}

static void
try_set(struct qbatch_set_walk set, bool trusted)
{
    struct qbatch batch;
    const uint8_t *payload = NULL;
    enum q_err err;
    while ((err = qbatch_set_next(&set, trusted, &batch, &payload)) == Q_OK)
        try_batch(&batch, payload, trusted);
    Q_ASSERT(err == Q_END || err == Q_E_CORRUPT || err == Q_E_VERSION);
    Q_ASSERT(err == Q_END || q_fault_last()->err == err);
}

static void
try_batch(const struct qbatch *batch, const uint8_t *payload, bool trusted)
{
    uint64_t length_sum = 0;
    for (uint32_t i = 0; i < batch->message_count; i++) {
        struct qbatch_entry entry;
        qbatch_entry_at(batch, i, &entry);
        length_sum += entry.length;
    }
    Q_ASSERT(trusted || length_sum == batch->content_length);
    for (uint32_t i = 0; i < batch->tag_count; i++)
        Q_ASSERT(qbatch_tag_at(batch, i).size > 0);
    try_filter(batch);

    (void)!qbatch_check_payload(batch, payload);
    Q_ASSERT(batch->content_length > 0);
    uint8_t *scratch = malloc(batch->content_length);
    Q_ASSERT(scratch != NULL);
    struct q_bytes content;
    if (qbatch_content(batch, payload, scratch, &content) == Q_OK) try_walk(batch, content);
    free(scratch);
}

static void
try_filter(const struct qbatch *batch)
{
    struct qbatch_filter filter = { .tag_count = 2, .mode = QBATCH_TAGS_ALL };
    filter.tags[0] = batch->tag_count > 0 ? qbatch_tag_at(batch, 0) : q_bytes_from_text("x");
    filter.tags[1] = q_bytes_from_text("paid");
    for (int mode = QBATCH_TAGS_ANY; mode <= QBATCH_TAGS_ALL; mode++) {
        filter.mode = (enum qbatch_tag_mode)mode;
        struct qbatch_mask mask = qbatch_filter_mask(batch, &filter);
        struct qbatch_entry entry;
        qbatch_entry_at(batch, 0, &entry);
        (void)qbatch_mask_passes(&mask, entry.tags);
    }
}

static void
try_walk(const struct qbatch *batch, struct q_bytes content)
{
    for (int check = 0; check < 2; check++) {
        struct qbatch_walk walk;
        struct qbatch_view view;
        qbatch_walk_start(&walk, batch, content);
        enum q_err err;
        while ((err = qbatch_walk_next(&walk, check, &view)) == Q_OK)
            try_view(batch, &view);
        Q_ASSERT(err == Q_END || err == Q_E_CORRUPT);
    }
}

static void
try_view(const struct qbatch *batch, const struct qbatch_view *view)
{
    Q_ASSERT(view->raw.size == QBATCH_MESSAGE_HEAD + view->properties.size + view->body.size);
    Q_ASSERT(view->body.data + view->body.size == view->raw.data + view->raw.size);
    struct q_bytes at = view->properties;
    struct q_bytes key;
    struct q_bytes value;
    uint32_t count = 0;
    for (; qbatch_property_next(&at, &key, &value) == Q_OK; count++) {
        struct q_bytes found;
        Q_ASSERT(qbatch_property_find(view, key, &found) == Q_OK);
    }
    Q_ASSERT(count == view->property_count);

    if (view->id.time_ms >> 48 != 0) return;
    char text[QBATCH_ID_TEXT_SIZE];
    struct qbatch_id parsed;
    struct qbatch_id id = qbatch_id_at(batch, view->index);
    Q_ASSERT(qbatch_id_parse(qbatch_id_format(&id, text), &parsed) == Q_OK);
    Q_ASSERT(parsed.time_ms == id.time_ms);
    Q_ASSERT(parsed.counter == id.counter);
}

/* As far as the lengths lead: hashes of payload and envelope, in the order in which they nest. */
static void
mend_hashes(
    uint8_t *envelopes, size_t envelopes_size, const uint8_t *payloads, size_t payloads_size)
{
    while (envelopes_size >= QBATCH_HEADER_SIZE) {
        uint32_t length = q_load_le32(envelopes + QBATCH_ENVELOPE_LENGTH);
        uint64_t payload_length = q_load_le32(envelopes + QBATCH_PAYLOAD_LENGTH);
        uint64_t padded_length = q_align_up(payload_length, 8);
        if (length < QBATCH_HEADER_SIZE || length > envelopes_size) return;
        if (padded_length > payloads_size) return;

        q_store_le64(envelopes + QBATCH_PAYLOAD_HASH, XXH3_64bits(payloads, payload_length));
        uint64_t hash = XXH3_64bits(envelopes + QBATCH_MAGIC, length - QBATCH_MAGIC);
        q_store_le64(envelopes + QBATCH_ENVELOPE_HASH, hash);
        envelopes += length;
        envelopes_size -= length;
        payloads += padded_length;
        payloads_size -= padded_length;
    }
}
