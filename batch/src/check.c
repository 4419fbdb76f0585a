/*
 * check.c: whether foreign bytes are a batch.
 *
 * First the lengths and counts, which cost nothing and keep everything after them inside; then the
 * hash over the envelope; then what a hash can't tell, since whoever makes the bytes makes the
 * hash: each entry, key and tag.
 */
#include <qbatch/batch.h>

#include <assert.h>
#include <inttypes.h>

#include <qbase/assert.h>
#include <qbatch/hash.h>

enum {
    ALIGN = 8
};

static const uint64_t time_ms_end = UINT64_C(1) << 48;

static_assert(QBATCH_HEADER_SIZE == QBATCH_DUE_OR_ORIGIN + 8, "the header ends with this field");
static_assert(QBATCH_PREFIX_SIZE == QBATCH_ENVELOPE_HASH, "the producer's part begins here");
static_assert(QBATCH_MAGIC == QBATCH_ENVELOPE_HASH + 8, "hashed from the magic on");
static_assert(QBATCH_HEADER_SIZE % ALIGN == 0, "parts are padded to multiples of 8");
static_assert(QBATCH_ENTRY_SIZE % ALIGN == 0, "parts are padded to multiples of 8");

static enum q_err open_unhashed(struct q_bytes bytes, struct qbatch *ret_batch);
static enum q_err check_constants(const uint8_t *header);
static enum q_err check_envelope_length(const struct qbatch *batch, size_t size);
static enum q_err check_payload_length(const struct qbatch *batch);
static enum q_err check_dictionary(const struct qbatch *batch);
static enum q_err check_envelope_hash(const struct qbatch *batch);
static enum q_err check_entries(const struct qbatch *batch);
static enum q_err check_keys(const struct qbatch *batch);
static enum q_err check_tags(const struct qbatch *batch);

enum q_err
qbatch_open(struct q_bytes bytes, struct qbatch *ret_batch)
{
    struct qbatch batch;
    Q_TRY(open_unhashed(bytes, &batch));
    Q_TRY(check_envelope_hash(&batch));
    Q_TRY(check_entries(&batch));
    Q_TRY(check_keys(&batch));
    Q_TRY(check_tags(&batch));
    *ret_batch = batch;
    return Q_OK;
}

enum q_err
qbatch_open_trusted(struct q_bytes bytes, struct qbatch *ret_batch)
{
    struct qbatch batch;
    Q_TRY(open_unhashed(bytes, &batch));
    *ret_batch = batch;
    return Q_OK;
}

static enum q_err
open_unhashed(struct q_bytes bytes, struct qbatch *ret_batch)
{
    if (bytes.size < QBATCH_HEADER_SIZE) {
        return Q_FAIL(
            Q_E_CORRUPT, .position = 0,
            .what = q_text("%zu bytes are less than the header of a batch", bytes.size));
    }
    const uint8_t *header = bytes.data;
    Q_TRY(check_constants(header));

    struct qbatch batch = {
        .envelope = header,
        .envelope_length = q_load_le32(header + QBATCH_ENVELOPE_LENGTH),
        .payload_length = q_load_le32(header + QBATCH_PAYLOAD_LENGTH),
        .content_length = q_load_le32(header + QBATCH_CONTENT_LENGTH),
        .message_count = q_load_le32(header + QBATCH_MESSAGE_COUNT),
        .key_count = q_load_le32(header + QBATCH_KEY_COUNT),
        .tag_count = q_load_le16(header + QBATCH_TAG_COUNT),
        .codec = header[QBATCH_CODEC],
        .payload_hash = q_load_le64(header + QBATCH_PAYLOAD_HASH),
        .subject_id = q_load_le32(header + QBATCH_SUBJECT_ID),
        .first_sequence = q_load_le64(header + QBATCH_FIRST_SEQUENCE),
        .store_time_ms = q_load_le64(header + QBATCH_STORE_TIME_MS),
        .base_time_ms = q_load_le64(header + QBATCH_BASE_TIME_MS),
        .request_sequence = q_load_le64(header + QBATCH_REQUEST_SEQUENCE),
        .request_index = q_load_le32(header + QBATCH_REQUEST_INDEX),
        .request_count = q_load_le32(header + QBATCH_REQUEST_COUNT),
    };
    memcpy(batch.producer_id, header + QBATCH_PRODUCER_ID, sizeof(batch.producer_id));
    uint16_t flags = q_load_le16(header + QBATCH_FLAGS);
    batch.delayed = flags == QBATCH_FLAG_DELAYED;
    if (batch.delayed) batch.due_ms = q_load_le64(header + QBATCH_DUE_OR_ORIGIN);
    batch.origin = flags == QBATCH_FLAG_FORWARDED
                       ? q_load_le64(header + QBATCH_DUE_OR_ORIGIN)
                       : __builtin_bswap64(q_load_le64(batch.producer_id)) >> 16;
    Q_TRY(check_envelope_length(&batch, bytes.size));
    Q_TRY(check_payload_length(&batch));
    if (batch.base_time_ms >= time_ms_end) {
        return Q_FAIL(
            Q_E_CORRUPT, .position = QBATCH_BASE_TIME_MS,
            .what = q_text("base time %" PRIu64 " ms is not below 2^48", batch.base_time_ms));
    }
    if (batch.request_index >= batch.request_count) {
        return Q_FAIL(
            Q_E_CORRUPT, .position = QBATCH_REQUEST_INDEX,
            .what = q_text(
                "batch %" PRIu32 " of a request of %" PRIu32, batch.request_index,
                batch.request_count));
    }

    /* Lengths up to here were checked, so these sums stay within the envelope. */
    batch.payload_padded_length = (uint32_t)q_align_up(batch.payload_length, ALIGN);
    batch.keys_at = QBATCH_HEADER_SIZE + batch.message_count * QBATCH_ENTRY_SIZE;
    batch.tags_at = batch.keys_at + batch.key_count * QBATCH_KEY_SIZE;
    Q_TRY(check_dictionary(&batch));
    *ret_batch = batch;
    return Q_OK;
}

/* The fields that have one value or few. */
static enum q_err
check_constants(const uint8_t *header)
{
    uint32_t magic = q_load_le32(header + QBATCH_MAGIC);
    if (magic != QBATCH_MAGIC_VALUE) {
        return Q_FAIL(
            Q_E_CORRUPT, .position = QBATCH_MAGIC,
            .what = q_text("magic number %08" PRIx32 " is not that of a batch", magic));
    }
    if (header[QBATCH_VERSION] != QBATCH_VERSION_VALUE) {
        return Q_FAIL(
            Q_E_VERSION, .position = QBATCH_VERSION,
            .what = q_text("version %u of a batch is unknown", header[QBATCH_VERSION]));
    }
    if (header[QBATCH_CODEC] != QBATCH_CODEC_NONE && header[QBATCH_CODEC] != QBATCH_CODEC_LZ4) {
        return Q_FAIL(
            Q_E_CORRUPT, .position = QBATCH_CODEC,
            .what = q_text("codec %u is unknown", header[QBATCH_CODEC]));
    }
    if (q_load_le16(header + QBATCH_HEADER_ZERO) != 0)
        return Q_FAIL(Q_E_CORRUPT, .position = QBATCH_HEADER_ZERO, .what = "header pad not zero");
    uint16_t flags = q_load_le16(header + QBATCH_FLAGS);
    if (flags != 0 && flags != QBATCH_FLAG_DELAYED && flags != QBATCH_FLAG_FORWARDED)
        return Q_FAIL(
            Q_E_CORRUPT, .position = QBATCH_FLAGS,
            .what = q_text("flags %04x of a batch are unknown", (unsigned)flags));
    uint64_t value = q_load_le64(header + QBATCH_DUE_OR_ORIGIN);
    if (flags == 0 ? value != 0 : value >= time_ms_end)
        return Q_FAIL(
            Q_E_CORRUPT, .position = QBATCH_DUE_OR_ORIGIN,
            .what = q_text("due time or origin %" PRIx64 " is wrong", value));
    return Q_OK;
}

/* The envelope lies within `size`, and entries and keys within the envelope. */
static enum q_err
check_envelope_length(const struct qbatch *batch, size_t size)
{
    uint32_t length = batch->envelope_length;
    if (length > size || length < QBATCH_HEADER_SIZE || length % ALIGN != 0) {
        return Q_FAIL(
            Q_E_CORRUPT, .position = QBATCH_ENVELOPE_LENGTH,
            .what = q_text("envelope length %" PRIu32 " of %zu bytes is wrong", length, size));
    }
    if (batch->message_count == 0 || batch->message_count > QBATCH_MESSAGES_MAX) {
        return Q_FAIL(
            Q_E_CORRUPT, .position = QBATCH_MESSAGE_COUNT,
            .what = q_text(
                "message count %" PRIu32 " is not between 1 and %d", batch->message_count,
                QBATCH_MESSAGES_MAX));
    }
    if (batch->key_count > batch->message_count * QBATCH_KEYS_MAX) {
        return Q_FAIL(
            Q_E_CORRUPT, .position = QBATCH_KEY_COUNT,
            .what = q_text(
                "key count %" PRIu32 " exceeds %d for each message", batch->key_count,
                QBATCH_KEYS_MAX));
    }
    if (batch->tag_count > QBATCH_DICTIONARY_MAX) {
        return Q_FAIL(
            Q_E_CORRUPT, .position = QBATCH_TAG_COUNT,
            .what = q_text(
                "tag count %" PRIu32 " exceeds %d", batch->tag_count, QBATCH_DICTIONARY_MAX));
    }
    /* Both counts have bounds, so the sum can't overflow. */
    uint32_t fixed = batch->message_count * QBATCH_ENTRY_SIZE + batch->key_count * QBATCH_KEY_SIZE;
    if (fixed > length - QBATCH_HEADER_SIZE) {
        return Q_FAIL(
            Q_E_CORRUPT, .position = QBATCH_ENVELOPE_LENGTH,
            .what = q_text(
                "envelope length %" PRIu32 " has no room for %" PRIu32 " entries and %" PRIu32
                " keys",
                length, batch->message_count, batch->key_count));
    }
    return Q_OK;
}

static enum q_err
check_payload_length(const struct qbatch *batch)
{
    uint32_t content = batch->content_length;
    uint32_t payload = batch->payload_length;
    if (content < batch->message_count * QBATCH_MESSAGE_HEAD || content > QBATCH_CONTENT_BYTES_MAX)
    {
        return Q_FAIL(
            Q_E_CORRUPT, .position = QBATCH_CONTENT_LENGTH,
            .what = q_text(
                "content length %" PRIu32 " does not fit %" PRIu32 " messages", content,
                batch->message_count));
    }
    bool fits =
        batch->codec == QBATCH_CODEC_NONE ? payload == content : payload > 0 && payload < content;
    if (!fits) {
        return Q_FAIL(
            Q_E_CORRUPT, .position = QBATCH_PAYLOAD_LENGTH,
            .what = q_text(
                "payload length %" PRIu32 " does not fit content length %" PRIu32, payload,
                content));
    }
    if (content / QBATCH_RATIO_MAX > payload) {
        return Q_FAIL(
            Q_E_CORRUPT, .position = QBATCH_CONTENT_LENGTH,
            .what = q_text("%" PRIu32 " bytes can't decompress to %" PRIu32, payload, content));
    }
    return Q_OK;
}

/* Each tag lies within the envelope, and after the last there is zero padding and nothing else. */
static enum q_err
check_dictionary(const struct qbatch *batch)
{
    uint32_t at = batch->tags_at;
    for (uint32_t i = 0; i < batch->tag_count; i++) {
        uint32_t left = batch->envelope_length - at;
        if (left == 0 || batch->envelope[at] == 0 || batch->envelope[at] > left - 1) {
            return Q_FAIL(
                Q_E_CORRUPT, .position = at,
                .what = q_text("tag %" PRIu32 " does not end within the envelope", i));
        }
        at += 1u + batch->envelope[at];
    }

    uint32_t padding = batch->envelope_length - at;
    if (padding >= ALIGN || !q_is_zero(batch->envelope + at, padding)) {
        return Q_FAIL(
            Q_E_CORRUPT, .position = at,
            .what = q_text("%" PRIu32 " bytes of envelope padding are wrong", padding));
    }
    return Q_OK;
}

static enum q_err
check_envelope_hash(const struct qbatch *batch)
{
    struct q_bytes hashed = {
        .data = batch->envelope + QBATCH_MAGIC,
        .size = batch->envelope_length - QBATCH_MAGIC,
    };
    if (q_load_le64(batch->envelope + QBATCH_ENVELOPE_HASH) == qbatch_hash(hashed)) return Q_OK;
    return Q_FAIL(
        Q_E_CORRUPT, .position = QBATCH_ENVELOPE_HASH, .what = "hash of the envelope differs");
}

static enum q_err
check_entries(const struct qbatch *batch)
{
    /* One test for the tags a message may have; a shift by 64 would not be defined. */
    uint64_t tags_known = batch->tag_count == 0 ? 0 : UINT64_MAX >> (64 - batch->tag_count);
    uint64_t time_left_ms = time_ms_end - 1 - batch->base_time_ms;
    uint64_t length_sum = 0;
    for (uint32_t i = 0; i < batch->message_count; i++) {
        uint32_t at = QBATCH_HEADER_SIZE + i * QBATCH_ENTRY_SIZE;
        const uint8_t *entry = batch->envelope + at;
        uint32_t length = q_load_le32(entry + QBATCH_ENTRY_LENGTH);
        uint64_t tags = q_load_le64(entry + QBATCH_ENTRY_TAGS);
        if (length < QBATCH_MESSAGE_HEAD || length > QBATCH_MESSAGE_HEAD + QBATCH_MESSAGE_BYTES_MAX)
        {
            return Q_FAIL(
                Q_E_CORRUPT, .position = at + QBATCH_ENTRY_LENGTH,
                .what = q_text("length %" PRIu32 " of message %" PRIu32 " is wrong", length, i));
        }
        if ((tags & ~tags_known) != 0 ||
            (tags != 0 && __builtin_popcountll(tags) > QBATCH_TAGS_MAX + 1)) {
            return Q_FAIL(
                Q_E_CORRUPT, .position = at + QBATCH_ENTRY_TAGS,
                .what = q_text("tags %" PRIx64 " of message %" PRIu32 " are wrong", tags, i));
        }
        if (q_load_le32(entry + QBATCH_ENTRY_TIME_DELTA) > time_left_ms) {
            return Q_FAIL(
                Q_E_CORRUPT, .position = at + QBATCH_ENTRY_TIME_DELTA,
                .what = q_text("time of message %" PRIu32 " is not below 2^48 ms", i));
        }
        if (q_load_le32(entry + QBATCH_ENTRY_FLAGS) != 0) {
            return Q_FAIL(
                Q_E_CORRUPT, .position = at + QBATCH_ENTRY_FLAGS,
                .what = q_text("flags of message %" PRIu32 " are not zero", i));
        }
        length_sum += length;
    }
    if (length_sum == batch->content_length) return Q_OK;
    return Q_FAIL(
        Q_E_CORRUPT, .position = QBATCH_CONTENT_LENGTH,
        .what = q_text(
            "content length is %" PRIu32 ", messages have %" PRIu64 " bytes", batch->content_length,
            length_sum));
}

static enum q_err
check_keys(const struct qbatch *batch)
{
    uint32_t last = 0;
    uint32_t run = 0;
    for (uint32_t i = 0; i < batch->key_count; i++) {
        uint32_t at = batch->keys_at + i * QBATCH_KEY_SIZE;
        uint32_t index = q_load_le32(batch->envelope + at);
        run = index == last ? run + 1 : 1;
        if (index < last || index >= batch->message_count || run > QBATCH_KEYS_MAX) {
            return Q_FAIL(
                Q_E_CORRUPT, .position = at,
                .what = q_text("key %" PRIu32 " of message %" PRIu32 " is wrong", i, index));
        }
        if (q_load_le32(batch->envelope + at + 4) != 0) {
            return Q_FAIL(
                Q_E_CORRUPT, .position = at + 4,
                .what = q_text("pad of key %" PRIu32 " is not zero", i));
        }
        last = index;
    }
    return Q_OK;
}

/* A tag twice in the dictionary would make a filter's answer depend on which one it meets. */
static enum q_err
check_tags(const struct qbatch *batch)
{
    struct q_bytes tags[QBATCH_DICTIONARY_MAX];
    uint32_t at = batch->tags_at;
    for (uint32_t i = 0; i < batch->tag_count; i++) {
        tags[i] = q_bytes_from(batch->envelope + at + 1, batch->envelope[at]);
        if (memchr(tags[i].data, '\0', tags[i].size) != NULL) {
            return Q_FAIL(
                Q_E_CORRUPT, .position = at, .what = q_text("tag %" PRIu32 " holds a NUL byte", i));
        }
        for (uint32_t j = 0; j < i; j++) {
            if (!q_bytes_equal(tags[i], tags[j])) continue;
            return Q_FAIL(
                Q_E_CORRUPT, .position = at,
                .what = q_text("tag %" PRIu32 " is tag %" PRIu32 " again", i, j));
        }
        at += 1u + (uint32_t)tags[i].size;
    }
    return Q_OK;
}

enum q_err
qbatch_check_payload(const struct qbatch *batch, const uint8_t *payload)
{
    if (qbatch_hash(q_bytes_from(payload, batch->payload_length)) != batch->payload_hash)
        return Q_FAIL(Q_E_CORRUPT, .what = "hash of the payload differs");
    uint32_t padding = batch->payload_padded_length - batch->payload_length;
    if (!q_is_zero(payload + batch->payload_length, padding)) {
        return Q_FAIL(
            Q_E_CORRUPT, .position = batch->payload_length,
            .what = "padding of the payload is not zero");
    }
    return Q_OK;
}

enum q_err
qbatch_set_next(
    struct qbatch_set_walk *walk,
    bool trusted,
    struct qbatch *ret_batch,
    const uint8_t **ret_payload)
{
    if (walk->envelopes.size == 0) {
        if (walk->payloads.size == 0) return Q_END;
        return Q_FAIL(
            Q_E_CORRUPT,
            .what = q_text("%zu bytes of payload belong to no batch", walk->payloads.size));
    }

    struct qbatch batch;
    Q_TRY(
        trusted ? qbatch_open_trusted(walk->envelopes, &batch)
                : qbatch_open(walk->envelopes, &batch));
    if (batch.payload_padded_length > walk->payloads.size) {
        return Q_FAIL(
            Q_E_CORRUPT, .position = QBATCH_PAYLOAD_LENGTH,
            .what = q_text(
                "payload length %" PRIu32 " exceeds the %zu bytes there are", batch.payload_length,
                walk->payloads.size));
    }

    *ret_batch = batch;
    *ret_payload = walk->payloads.data;
    walk->envelopes.data += batch.envelope_length;
    walk->envelopes.size -= batch.envelope_length;
    walk->payloads.data += batch.payload_padded_length;
    walk->payloads.size -= batch.payload_padded_length;
    return Q_OK;
}
