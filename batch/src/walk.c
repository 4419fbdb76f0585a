/*
 * walk.c: what a checked envelope tells, and the messages of its content.
 *
 * The content is only known to have the right hash, or not even that: every length in it is
 * compared with what is left before it is used.
 */
#include <qbatch/batch.h>

#include <inttypes.h>

#include <lz4.h>

#include <qbase/assert.h>
#include <qbatch/hash.h>

static struct qbatch_entry load_entry(const struct qbatch *batch, uint32_t index);
static struct qbatch_id id_of(const struct qbatch *batch, const struct qbatch_entry *entry);
static bool properties_fit(struct q_bytes raw, uint32_t count, uint32_t bytes);

void
qbatch_entry_at(const struct qbatch *batch, uint32_t index, struct qbatch_entry *ret_entry)
{
    Q_ASSERT(index < batch->message_count);
    *ret_entry = load_entry(batch, index);
}

bool
qbatch_is_ordered(const struct qbatch *batch)
{
    const uint8_t *entry = batch->envelope + QBATCH_HEADER_SIZE;
    uint32_t keys = 0;
    for (uint32_t i = 0; i < batch->message_count; i++, entry += QBATCH_ENTRY_SIZE)
        keys |= q_load_le32(entry + QBATCH_ENTRY_ORDER_KEY);
    return keys != 0;
}

struct qbatch_id
qbatch_id_at(const struct qbatch *batch, uint32_t index)
{
    Q_ASSERT(index < batch->message_count);
    struct qbatch_entry entry = load_entry(batch, index);
    return id_of(batch, &entry);
}

static inline struct qbatch_entry
load_entry(const struct qbatch *batch, uint32_t index)
{
    const uint8_t *entries = batch->envelope + QBATCH_HEADER_SIZE;
    const uint8_t *entry = entries + (size_t)index * QBATCH_ENTRY_SIZE;
    return (struct qbatch_entry){
        .length = q_load_le32(entry + QBATCH_ENTRY_LENGTH),
        .hash = q_load_le32(entry + QBATCH_ENTRY_HASH),
        .tags = q_load_le64(entry + QBATCH_ENTRY_TAGS),
        .order_key_hash = q_load_le32(entry + QBATCH_ENTRY_ORDER_KEY),
        .time_ms = batch->base_time_ms + q_load_le32(entry + QBATCH_ENTRY_TIME_DELTA),
        .counter = q_load_le32(entry + QBATCH_ENTRY_COUNTER),
    };
}

static inline struct qbatch_id
id_of(const struct qbatch *batch, const struct qbatch_entry *entry)
{
    return (struct qbatch_id){
        .time_ms = entry->time_ms,
        .producer = batch->origin,
        .counter = entry->counter,
    };
}

struct q_bytes
qbatch_tag_at(const struct qbatch *batch, uint32_t index)
{
    Q_ASSERT(index < batch->tag_count);
    const uint8_t *tag = batch->envelope + batch->tags_at;
    for (uint32_t i = 0; i < index; i++)
        tag += 1 + tag[0];
    return q_bytes_from(tag + 1, tag[0]);
}

struct qbatch_mask
qbatch_filter_mask(const struct qbatch *batch, const struct qbatch_filter *filter)
{
    Q_ASSERT(filter->tag_count <= QBATCH_TAGS_MAX);

    struct qbatch_mask mask = { .mode = filter->mode, .everything = filter->tag_count == 0 };
    if (mask.everything) return mask;

    uint32_t found = 0; /* bit i: tag i of the filter is in the dictionary */
    const uint8_t *tag = batch->envelope + batch->tags_at;
    for (uint32_t i = 0; i < batch->tag_count; i++, tag += 1 + tag[0]) {
        for (uint32_t j = 0; j < filter->tag_count; j++) {
            if (!q_bytes_equal(q_bytes_from(tag + 1, tag[0]), filter->tags[j])) continue;
            mask.bits |= UINT64_C(1) << i;
            found |= UINT32_C(1) << j;
        }
    }
    uint32_t wanted = (UINT32_C(1) << filter->tag_count) - 1;
    mask.nothing = filter->mode == QBATCH_TAGS_ANY ? found == 0 : found != wanted;
    return mask;
}

uint64_t
qbatch_others(const struct qbatch *batch, struct q_bytes group)
{
    uint64_t others = 0;
    const uint8_t *tag = batch->envelope + batch->tags_at;
    for (uint32_t i = 0; i < batch->tag_count; i++, tag += 1 + tag[0]) {
        if (tag[0] == 0 || tag[1] != QBATCH_ONLY) continue;
        if (!q_bytes_equal(q_bytes_from(tag + 2, tag[0] - 1u), group)) others |= UINT64_C(1) << i;
    }
    return others;
}

enum q_err
qbatch_content(
    const struct qbatch *batch,
    const uint8_t *payload,
    uint8_t *scratch,
    struct q_bytes *ret_content)
{
    if (batch->codec == QBATCH_CODEC_NONE) {
        *ret_content = q_bytes_from(payload, batch->payload_length);
        return Q_OK;
    }

    Q_ASSERT(scratch != NULL);
    int length = LZ4_decompress_safe(
        (const char *)payload, (char *)scratch, (int)batch->payload_length,
        (int)batch->content_length);
    if (length < 0 || (uint32_t)length != batch->content_length) {
        return Q_FAIL(
            Q_E_CORRUPT,
            .what =
                q_text("payload does not decompress to %" PRIu32 " bytes", batch->content_length));
    }
    *ret_content = q_bytes_from(scratch, batch->content_length);
    return Q_OK;
}

void
qbatch_walk_start(struct qbatch_walk *walk, const struct qbatch *batch, struct q_bytes content)
{
    *walk = (struct qbatch_walk){ .batch = batch, .content = content };
}

enum q_err
qbatch_walk_next(struct qbatch_walk *walk, bool check, struct qbatch_view *ret_view)
{
    const struct qbatch *batch = walk->batch;
    if (walk->index == batch->message_count) {
        if (walk->at == walk->content.size) return Q_END;
        return Q_FAIL(
            Q_E_CORRUPT, .position = walk->at, .what = "content goes on after the last message");
    }

    struct qbatch_entry entry = load_entry(batch, walk->index);
    if (entry.length < QBATCH_MESSAGE_HEAD || entry.length > walk->content.size - walk->at) {
        return Q_FAIL(
            Q_E_CORRUPT, .position = walk->at,
            .what = q_text(
                "length %" PRIu32 " of message %" PRIu32 " is wrong", entry.length, walk->index));
    }
    struct q_bytes raw = q_bytes_from(walk->content.data + walk->at, entry.length);
    if (check && (uint32_t)qbatch_hash(raw) != entry.hash) {
        return Q_FAIL(
            Q_E_CORRUPT, .position = walk->at,
            .what = q_text("hash of message %" PRIu32 " differs", walk->index));
    }
    uint32_t property_count = q_load_le16(raw.data);
    uint32_t property_bytes = q_load_le16(raw.data + 2);
    if (!properties_fit(raw, property_count, property_bytes)) {
        return Q_FAIL(
            Q_E_CORRUPT, .position = walk->at,
            .what = q_text(
                "%" PRIu32 " properties in %" PRIu32 " bytes of message %" PRIu32 " are wrong",
                property_count, property_bytes, walk->index));
    }

    uint32_t body_at = QBATCH_MESSAGE_HEAD + property_bytes;
    *ret_view = (struct qbatch_view){
        .index = walk->index,
        .entry = entry,
        .id = id_of(batch, &entry),
        .raw = raw,
        .body = q_bytes_from(raw.data + body_at, raw.size - body_at),
        .property_count = property_count,
        .properties = q_bytes_from(raw.data + QBATCH_MESSAGE_HEAD, property_bytes),
    };
    walk->index++;
    walk->at += entry.length;
    return Q_OK;
}

/* Whether the message `raw` begins with `count` properties of `bytes` bytes together. */
static inline bool
properties_fit(struct q_bytes raw, uint32_t count, uint32_t bytes)
{
    if ((count | bytes) == 0) return true;
    if (count > QBATCH_PROPERTIES_MAX || bytes > QBATCH_PROPERTY_BYTES_MAX) return false;
    if (bytes > raw.size - QBATCH_MESSAGE_HEAD) return false;

    size_t left = bytes;
    const uint8_t *at = raw.data + QBATCH_MESSAGE_HEAD;
    for (uint32_t i = 0; i < count; i++) {
        if (left < QBATCH_PROPERTY_HEAD) return false;
        size_t length = QBATCH_PROPERTY_HEAD + (size_t)q_load_le16(at) + q_load_le16(at + 2);
        if (left < length) return false;
        at += length;
        left -= length;
    }
    return left == 0;
}

enum q_err
qbatch_property_next(struct q_bytes *at, struct q_bytes *ret_key, struct q_bytes *ret_value)
{
    if (at->size == 0) return Q_END;
    size_t key_size = q_load_le16(at->data);
    size_t value_size = q_load_le16(at->data + 2);
    size_t length = QBATCH_PROPERTY_HEAD + key_size + value_size;
    Q_ASSERT(length <= at->size);

    *ret_key = q_bytes_from(at->data + QBATCH_PROPERTY_HEAD, key_size);
    *ret_value = q_bytes_from(ret_key->data + key_size, value_size);
    at->data += length;
    at->size -= length;
    return Q_OK;
}

enum q_err
qbatch_property_find(const struct qbatch_view *view, struct q_bytes key, struct q_bytes *ret_value)
{
    struct q_bytes at = view->properties;
    struct q_bytes found_key;
    struct q_bytes value;
    while (qbatch_property_next(&at, &found_key, &value) == Q_OK) {
        if (!q_bytes_equal(found_key, key)) continue;
        *ret_value = value;
        return Q_OK;
    }
    return Q_NOT_FOUND;
}
