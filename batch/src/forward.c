#include <qbatch/forward.h>

#include <qbase/assert.h>
#include <qbatch/hash.h>

enum {
    ALIGN = 8
};

struct part {
    uint32_t content_at; /* of the first message */
    uint32_t content_length;
    uint32_t first_key;
    uint32_t key_count;
    uint32_t tags_length; /* without the padding */
};

static bool is_whole(const struct qbatch_forward *forward);
static struct part measure(const struct qbatch_forward *forward);
static void write_part(const struct qbatch_forward *forward, uint8_t *envelope, uint8_t *payload);
static void stamp(const struct qbatch_forward *forward, uint8_t *envelope);

void
qbatch_forward_size(
    const struct qbatch_forward *forward, uint32_t *ret_envelope_size, uint32_t *ret_payload_size)
{
    const struct qbatch *batch = forward->batch;
    Q_ASSERT(forward->count > 0 && forward->first < batch->message_count);
    Q_ASSERT(forward->count <= batch->message_count - forward->first);
    if (is_whole(forward)) {
        *ret_envelope_size = batch->envelope_length;
        *ret_payload_size = batch->payload_padded_length;
        return;
    }
    struct part part = measure(forward);
    uint32_t size = QBATCH_HEADER_SIZE + forward->count * QBATCH_ENTRY_SIZE +
                    part.key_count * QBATCH_KEY_SIZE + part.tags_length;
    *ret_envelope_size = (uint32_t)q_align_up(size, ALIGN);
    *ret_payload_size = (uint32_t)q_align_up(part.content_length, ALIGN);
}

void
qbatch_forward_write(const struct qbatch_forward *forward, uint8_t *envelope, uint8_t *payload)
{
    const struct qbatch *batch = forward->batch;
    if (is_whole(forward)) {
        memcpy(envelope, batch->envelope, batch->envelope_length);
        memcpy(payload, forward->payload, batch->payload_padded_length);
    } else {
        write_part(forward, envelope, payload);
    }
    stamp(forward, envelope);
}

static bool
is_whole(const struct qbatch_forward *forward)
{
    return forward->count == forward->batch->message_count;
}

/* Keys are sorted by the index of their message, and the dictionary stays as it is. */
static struct part
measure(const struct qbatch_forward *forward)
{
    const struct qbatch *batch = forward->batch;
    struct part part = { 0 };
    struct qbatch_entry entry;
    for (uint32_t i = 0; i < forward->first + forward->count; i++) {
        qbatch_entry_at(batch, i, &entry);
        if (i < forward->first)
            part.content_at += entry.length;
        else
            part.content_length += entry.length;
    }
    for (uint32_t i = 0; i < batch->key_count; i++) {
        uint32_t index = q_load_le32(batch->envelope + batch->keys_at + i * QBATCH_KEY_SIZE);
        if (index < forward->first) part.first_key++;
        if (index >= forward->first && index - forward->first < forward->count) part.key_count++;
    }
    for (uint32_t i = 0; i < batch->tag_count; i++)
        part.tags_length += 1u + batch->envelope[batch->tags_at + part.tags_length];
    return part;
}

static void
write_part(const struct qbatch_forward *forward, uint8_t *envelope, uint8_t *payload)
{
    const struct qbatch *batch = forward->batch;
    struct part part = measure(forward);
    Q_ASSERT(part.content_at + part.content_length <= forward->content.size);
    uint32_t envelope_size;
    uint32_t payload_size;
    qbatch_forward_size(forward, &envelope_size, &payload_size);
    memset(envelope, 0, envelope_size);
    memcpy(envelope, batch->envelope, QBATCH_HEADER_SIZE);
    uint8_t *to = envelope + QBATCH_HEADER_SIZE;
    memcpy(
        to, batch->envelope + QBATCH_HEADER_SIZE + (size_t)forward->first * QBATCH_ENTRY_SIZE,
        (size_t)forward->count * QBATCH_ENTRY_SIZE);
    to += (size_t)forward->count * QBATCH_ENTRY_SIZE;
    for (uint32_t i = 0; i < part.key_count; i++, to += QBATCH_KEY_SIZE) {
        size_t key = part.first_key + i;
        memcpy(to, batch->envelope + batch->keys_at + key * QBATCH_KEY_SIZE, QBATCH_KEY_SIZE);
        q_store_le32(to, q_load_le32(to) - forward->first);
    }
    memcpy(to, batch->envelope + batch->tags_at, part.tags_length);

    memset(payload, 0, payload_size);
    memcpy(payload, forward->content.data + part.content_at, part.content_length);
    envelope[QBATCH_CODEC] = QBATCH_CODEC_NONE;
    q_store_le32(envelope + QBATCH_ENVELOPE_LENGTH, envelope_size);
    q_store_le32(envelope + QBATCH_PAYLOAD_LENGTH, part.content_length);
    q_store_le32(envelope + QBATCH_CONTENT_LENGTH, part.content_length);
    q_store_le32(envelope + QBATCH_MESSAGE_COUNT, forward->count);
    q_store_le32(envelope + QBATCH_KEY_COUNT, part.key_count);
    q_store_le64(
        envelope + QBATCH_PAYLOAD_HASH, qbatch_hash(q_bytes_from(payload, part.content_length)));
}

static void
stamp(const struct qbatch_forward *forward, uint8_t *envelope)
{
    const struct qbatch *batch = forward->batch;
    memset(envelope, 0, QBATCH_PREFIX_SIZE);
    uint64_t due_ms = forward->place.due_ms;
    q_store_le16(
        envelope + QBATCH_FLAGS, due_ms != 0 ? QBATCH_FLAG_DELAYED : QBATCH_FLAG_FORWARDED);
    q_store_le64(envelope + QBATCH_DUE_OR_ORIGIN, due_ms != 0 ? due_ms : batch->origin);
    memcpy(envelope + QBATCH_PRODUCER_ID, forward->producer_id, sizeof(forward->producer_id));
    qbatch_forward_number(envelope, &forward->place);
}

void
qbatch_forward_number(uint8_t *envelope, const struct qbatch_request_place *place)
{
    q_store_le64(envelope + QBATCH_REQUEST_SEQUENCE, place->request_sequence);
    q_store_le32(envelope + QBATCH_REQUEST_INDEX, place->request_index);
    q_store_le32(envelope + QBATCH_REQUEST_COUNT, place->request_count);
    uint32_t length = q_load_le32(envelope + QBATCH_ENVELOPE_LENGTH);
    uint64_t hash = qbatch_hash(q_bytes_from(envelope + QBATCH_MAGIC, length - QBATCH_MAGIC));
    q_store_le64(envelope + QBATCH_ENVELOPE_HASH, hash);
}
