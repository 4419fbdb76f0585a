/*
 * build.c: collect messages, write them as a batch.
 *
 * Content, entries, keys and dictionary are kept in the form in which they are written, so that
 * writing is a header and four copies.
 */
#include <qbatch/build.h>

#include <assert.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>

#include <lz4.h>

#include <qbase/assert.h>
#include <qbatch/batch.h>
#include <qbatch/hash.h>

enum {
    MESSAGES_DEFAULT = 512,
    BYTES_DEFAULT = 64 * 1024,
    BUFFER_FIRST = 4096,
    DICTIONARY_BYTES_MAX = QBATCH_DICTIONARY_MAX * (1 + QBATCH_TAG_BYTES_MAX),
    DICTIONARY_SLOTS = 128,
    ALIGN = 8,
};

static_assert(DICTIONARY_SLOTS >= 2 * QBATCH_DICTIONARY_MAX, "probes of the dictionary are short");
static_assert(QBATCH_DICTIONARY_MAX == 64, "a message's tags are 64 bits");
static_assert(QBATCH_TAGS_MAX <= QBATCH_DICTIONARY_MAX, "an empty builder has room for any tags");
static_assert(QBATCH_PROPERTY_BYTES_MAX <= UINT16_MAX, "property bytes are a u16");
static_assert(QBATCH_HEADER_SIZE % ALIGN == 0, "entries keep the alignment");

static const uint64_t time_ms_end = UINT64_C(1) << 48;

struct buffer {
    uint8_t *data;
    size_t size;
    size_t capacity;
};

/* The tags of a batch as they are written, and a table from their hashes to their numbers. */
struct dictionary {
    uint32_t count;
    uint32_t size;                          /* of `text` */
    uint32_t starts[QBATCH_DICTIONARY_MAX]; /* in `text`, at the length byte */
    uint64_t hashes[QBATCH_DICTIONARY_MAX];
    uint8_t slots[DICTIONARY_SLOTS]; /* number + 1; 0: free */
    uint8_t text[DICTIONARY_BYTES_MAX];
};

struct qbatch_builder {
    struct qbatch_builder_options options;

    uint32_t count;
    struct buffer content;
    struct buffer entries; /* time deltas are against `time_ms_first` and wrap, see _write() */
    struct buffer keys;
    uint64_t time_ms_first; /* of the message added first */
    uint64_t time_ms_min;
    uint64_t time_ms_max;

    /* Set by _close(). */
    bool is_closed;
    enum qbatch_codec codec;
    struct buffer packed; /* the payload when the codec is LZ4 */
    uint64_t payload_hash;
    uint32_t envelope_size;

    struct dictionary dictionary; /* last: its text is not cleared */
};

static enum q_err check_message(const struct qbatch_message *message, uint32_t *ret_property_bytes);
static enum q_err check_tags(const struct qbatch_message *message);
static enum q_err check_keys(const struct qbatch_message *message);
static enum q_err check_properties(
    const struct qbatch_message *message, uint32_t *ret_property_bytes);
static enum q_err check_word(const char *kind, struct q_bytes word, size_t size_max);
static uint32_t property_count_of(const struct qbatch_message *message);
static bool has_room(
    const struct qbatch_builder *builder, const struct qbatch_message *message, size_t length);
static enum q_err reserve_all(
    struct qbatch_builder *builder, const struct qbatch_message *message, size_t length);
static void write_message(
    const struct qbatch_message *message, uint32_t property_bytes, uint8_t *to);
static void write_entry(
    struct qbatch_builder *builder,
    const struct qbatch_message *message,
    struct q_bytes raw,
    uint64_t tags);
static void write_keys(struct qbatch_builder *builder, const struct qbatch_message *message);
static uint8_t *write_property(uint8_t *to, struct q_bytes key, struct q_bytes value);
static uint8_t *write_bytes(uint8_t *to, struct q_bytes bytes);
static enum q_err compress(struct qbatch_builder *builder);
static struct q_bytes payload_of(const struct qbatch_builder *builder);
static uint8_t *write_header(
    const struct qbatch_builder *builder,
    const struct qbatch_request_place *place,
    uint8_t *envelope);
static uint8_t *write_entries(const struct qbatch_builder *builder, uint8_t *to);
static void write_padding(uint8_t *to, size_t size);
static bool dictionary_add_all(
    struct dictionary *dictionary, const struct qbatch_message *message, uint64_t *ret_tags);
static bool dictionary_add(struct dictionary *dictionary, struct q_bytes tag, uint32_t *ret_number);
static void dictionary_cut(struct dictionary *dictionary, uint32_t count);
static uint32_t dictionary_slot_of(uint64_t hash);
static enum q_err buffer_reserve(struct buffer *buffer, size_t extra);
static struct q_bytes buffer_bytes(const struct buffer *buffer);

enum q_err
qbatch_builder_new(
    const struct qbatch_builder_options *options, struct qbatch_builder **ret_builder)
{
    if (options->messages_max > QBATCH_MESSAGES_MAX) {
        return Q_FAIL(
            Q_TOO_BIG, .what = q_text(
                           "%" PRIu32 " messages in a batch exceed the limit of %d",
                           options->messages_max, QBATCH_MESSAGES_MAX));
    }
    if (options->bytes_max > QBATCH_CONTENT_BYTES_MAX) {
        return Q_FAIL(
            Q_TOO_BIG, .what = q_text(
                           "%" PRIu32 " bytes in a batch exceed the limit of %d",
                           options->bytes_max, QBATCH_CONTENT_BYTES_MAX));
    }

    /* Nothing of the text is read before it is written, and it is most of a builder: where each message
     * has a due time of its own, each has a builder. */
    struct qbatch_builder *builder = malloc(sizeof(struct qbatch_builder));
    if (builder == NULL) return Q_FAIL(Q_E_NOMEM, .what = "no memory for a batch builder");
    memset(builder, 0, offsetof(struct qbatch_builder, dictionary.text));
    builder->options = *options;
    if (options->messages_max == 0) builder->options.messages_max = MESSAGES_DEFAULT;
    if (options->bytes_max == 0) builder->options.bytes_max = BYTES_DEFAULT;
    *ret_builder = builder;
    return Q_OK;
}

void
qbatch_builder_free(struct qbatch_builder *builder)
{
    if (builder == NULL) return;
    free(builder->content.data);
    free(builder->entries.data);
    free(builder->keys.data);
    free(builder->packed.data);
    free(builder);
}

enum q_err
qbatch_builder_add(struct qbatch_builder *builder, const struct qbatch_message *message)
{
    Q_ASSERT(!builder->is_closed);

    uint32_t property_bytes = 0;
    Q_TRY(check_message(message, &property_bytes));
    size_t length = QBATCH_MESSAGE_HEAD + property_bytes + message->body.size;
    if (!has_room(builder, message, length)) return Q_AGAIN;
    Q_TRY(reserve_all(builder, message, length));
    /* The last thing that can fail, since it changes the dictionary. */
    uint64_t tags = 0;
    if (!dictionary_add_all(&builder->dictionary, message, &tags)) return Q_AGAIN;

    struct q_bytes raw = q_bytes_from(builder->content.data + builder->content.size, length);
    write_message(message, property_bytes, builder->content.data + builder->content.size);
    builder->content.size += length;
    write_entry(builder, message, raw, tags);
    write_keys(builder, message);
    builder->count++;
    return Q_OK;
}

static enum q_err
check_message(const struct qbatch_message *message, uint32_t *ret_property_bytes)
{
    Q_TRY(check_tags(message));
    if (message->key_count > 0 || message->order_key.size > 0) Q_TRY(check_keys(message));
    if (property_count_of(message) > 0) Q_TRY(check_properties(message, ret_property_bytes));

    size_t room = (size_t)QBATCH_MESSAGE_BYTES_MAX - *ret_property_bytes;
    if (message->body.size > room) {
        return Q_FAIL(
            Q_TOO_BIG,
            .what = q_text(
                "a message of %zu bytes and %" PRIu32 " of properties exceeds the limit of %d",
                message->body.size, *ret_property_bytes, QBATCH_MESSAGE_BYTES_MAX));
    }
    if (message->time_ms >= time_ms_end) {
        return Q_FAIL(
            Q_TOO_BIG,
            .what = q_text(
                "creation time %" PRIu64 " ms exceeds the limit of 2^48 ms", message->time_ms));
    }
    return Q_OK;
}

static enum q_err
check_tags(const struct qbatch_message *message)
{
    if (message->tag_count > QBATCH_TAGS_MAX) {
        return Q_FAIL(
            Q_TOO_BIG, .what = q_text(
                           "%" PRIu32 " tags of a message exceed the limit of %d",
                           message->tag_count, QBATCH_TAGS_MAX));
    }
    for (uint32_t i = 0; i < message->tag_count; i++) {
        Q_TRY(check_word("tag", message->tags[i], QBATCH_TAG_BYTES_MAX));
        if (message->tags[i].data[0] == QBATCH_ONLY) {
            return Q_FAIL(
                Q_INVALID, .what = q_text(
                               "tag '%.*s' begins with '%%', which is kept for the queue's own",
                               (int)message->tags[i].size, (const char *)message->tags[i].data));
        }
    }
    if (message->only.size == 0) return Q_OK;
    return check_word("name of a group", message->only, QBATCH_TAG_BYTES_MAX - 1);
}

static enum q_err
check_keys(const struct qbatch_message *message)
{
    if (message->key_count > QBATCH_KEYS_MAX) {
        return Q_FAIL(
            Q_TOO_BIG, .what = q_text(
                           "%" PRIu32 " keys of a message exceed the limit of %d",
                           message->key_count, QBATCH_KEYS_MAX));
    }
    for (uint32_t i = 0; i < message->key_count; i++)
        Q_TRY(check_word("key", message->keys[i], QBATCH_KEY_BYTES_MAX));
    if (message->order_key.size > 0)
        Q_TRY(check_word("order key", message->order_key, QBATCH_KEY_BYTES_MAX));
    return Q_OK;
}

static enum q_err
check_word(const char *kind, struct q_bytes word, size_t size_max)
{
    if (word.size == 0) return Q_FAIL(Q_INVALID, .what = q_text("empty %s", kind));
    if (word.size > size_max) {
        return Q_FAIL(
            Q_TOO_BIG,
            .what = q_text("%s of %zu bytes exceeds the limit of %zu", kind, word.size, size_max));
    }
    if (memchr(word.data, '\0', word.size) != NULL)
        return Q_FAIL(Q_INVALID, .what = q_text("%s with a NUL byte", kind));
    return Q_OK;
}

static enum q_err
check_properties(const struct qbatch_message *message, uint32_t *ret_property_bytes)
{
    uint32_t count = property_count_of(message);
    if (message->property_count > QBATCH_PROPERTIES_MAX || count > QBATCH_PROPERTIES_MAX) {
        return Q_FAIL(
            Q_TOO_BIG, .what = q_text(
                           "%" PRIu32 " properties of a message, its keys among them, exceed the "
                           "limit of %d",
                           count, QBATCH_PROPERTIES_MAX));
    }

    /* 64 bits can't overflow: each size was held to the limit before it is added. */
    uint64_t bytes = (uint64_t)count * QBATCH_PROPERTY_HEAD;
    for (uint32_t i = 0; i < message->property_count; i++) {
        const struct qbatch_property *property = &message->properties[i];
        if (property->key.size > 0 && property->key.data[0] == '%') {
            return Q_FAIL(
                Q_INVALID,
                .what = q_text(
                    "property '%.*s' begins with '%%', which is kept for the queue's own",
                    (int)q_min_u64(property->key.size, QBATCH_KEY_BYTES_MAX),
                    (const char *)property->key.data));
        }
        bytes += q_min_u64(property->key.size, UINT32_MAX);
        bytes += q_min_u64(property->value.size, UINT32_MAX);
    }
    for (uint32_t i = 0; i < message->key_count; i++)
        bytes += strlen(QBATCH_PROPERTY_KEY) + message->keys[i].size;
    if (message->order_key.size > 0)
        bytes += strlen(QBATCH_PROPERTY_ORDER_KEY) + message->order_key.size;
    if (bytes > QBATCH_PROPERTY_BYTES_MAX) {
        return Q_FAIL(
            Q_TOO_BIG, .what = q_text(
                           "%" PRIu64 " bytes of properties exceed the limit of %d", bytes,
                           QBATCH_PROPERTY_BYTES_MAX));
    }
    *ret_property_bytes = (uint32_t)bytes;
    return Q_OK;
}

/* Those of the user and those that carry the keys. */
static uint32_t
property_count_of(const struct qbatch_message *message)
{
    return message->property_count + message->key_count + (message->order_key.size > 0 ? 1 : 0);
}

static bool
has_room(const struct qbatch_builder *builder, const struct qbatch_message *message, size_t length)
{
    if (builder->count == 0) return true;
    if (builder->count >= builder->options.messages_max) return false;
    if (builder->content.size + length > builder->options.bytes_max) return false;
    /* Entries hold 32 bits of time after the earliest message's. */
    uint64_t min = q_min_u64(builder->time_ms_min, message->time_ms);
    uint64_t max = q_max_u64(builder->time_ms_max, message->time_ms);
    return max - min <= UINT32_MAX;
}

static enum q_err
reserve_all(struct qbatch_builder *builder, const struct qbatch_message *message, size_t length)
{
    Q_TRY(buffer_reserve(&builder->content, length));
    Q_TRY(buffer_reserve(&builder->entries, QBATCH_ENTRY_SIZE));
    if (message->key_count == 0) return Q_OK;
    return buffer_reserve(&builder->keys, (size_t)message->key_count * QBATCH_KEY_SIZE);
}

static void
write_message(const struct qbatch_message *message, uint32_t property_bytes, uint8_t *to)
{
    q_store_le16(to, (uint16_t)property_count_of(message));
    q_store_le16(to + 2, (uint16_t)property_bytes);
    to += QBATCH_MESSAGE_HEAD;
    for (uint32_t i = 0; i < message->property_count; i++)
        to = write_property(to, message->properties[i].key, message->properties[i].value);
    for (uint32_t i = 0; i < message->key_count; i++)
        to = write_property(to, q_bytes_from_text(QBATCH_PROPERTY_KEY), message->keys[i]);
    if (message->order_key.size > 0) {
        to = write_property(to, q_bytes_from_text(QBATCH_PROPERTY_ORDER_KEY), message->order_key);
    }
    write_bytes(to, message->body);
}

static uint8_t *
write_property(uint8_t *to, struct q_bytes key, struct q_bytes value)
{
    q_store_le16(to, (uint16_t)key.size);
    q_store_le16(to + 2, (uint16_t)value.size);
    to = write_bytes(to + QBATCH_PROPERTY_HEAD, key);
    return write_bytes(to, value);
}

static uint8_t *
write_bytes(uint8_t *to, struct q_bytes bytes)
{
    if (bytes.size == 0) return to;
    memcpy(to, bytes.data, bytes.size);
    return to + bytes.size;
}

static void
write_entry(
    struct qbatch_builder *builder,
    const struct qbatch_message *message,
    struct q_bytes raw,
    uint64_t tags)
{
    if (builder->count == 0) {
        builder->time_ms_first = message->time_ms;
        builder->time_ms_min = message->time_ms;
        builder->time_ms_max = message->time_ms;
    }
    builder->time_ms_min = q_min_u64(builder->time_ms_min, message->time_ms);
    builder->time_ms_max = q_max_u64(builder->time_ms_max, message->time_ms);

    /* 0 means "no order key", so the one key in 2^32 with that hash gets another. */
    uint32_t order_key = 0;
    if (message->order_key.size > 0) {
        order_key = (uint32_t)qbatch_hash(message->order_key);
        if (order_key == 0) order_key = 1;
    }

    uint8_t *entry = builder->entries.data + builder->entries.size;
    q_store_le32(entry + QBATCH_ENTRY_LENGTH, (uint32_t)raw.size);
    q_store_le32(entry + QBATCH_ENTRY_HASH, (uint32_t)qbatch_hash(raw));
    q_store_le64(entry + QBATCH_ENTRY_TAGS, tags);
    q_store_le32(entry + QBATCH_ENTRY_ORDER_KEY, order_key);
    q_store_le32(
        entry + QBATCH_ENTRY_TIME_DELTA, (uint32_t)(message->time_ms - builder->time_ms_first));
    q_store_le32(entry + QBATCH_ENTRY_COUNTER, message->counter);
    q_store_le32(entry + QBATCH_ENTRY_FLAGS, 0);
    builder->entries.size += QBATCH_ENTRY_SIZE;
}

static void
write_keys(struct qbatch_builder *builder, const struct qbatch_message *message)
{
    for (uint32_t i = 0; i < message->key_count; i++) {
        uint8_t *key = builder->keys.data + builder->keys.size;
        q_store_le32(key, builder->count);
        q_store_le32(key + 4, 0);
        q_store_le64(key + 8, qbatch_hash(message->keys[i]));
        builder->keys.size += QBATCH_KEY_SIZE;
    }
}

uint32_t
qbatch_builder_count(const struct qbatch_builder *builder)
{
    return builder->count;
}

uint32_t
qbatch_builder_content_bytes(const struct qbatch_builder *builder)
{
    return (uint32_t)builder->content.size;
}

enum q_err
qbatch_builder_close(
    struct qbatch_builder *builder, uint32_t *ret_envelope_size, uint32_t *ret_payload_size)
{
    Q_ASSERT(builder->count > 0);
    Q_ASSERT(!builder->is_closed);

    builder->codec = QBATCH_CODEC_NONE;
    if (builder->options.compress) Q_TRY(compress(builder));
    struct q_bytes payload = payload_of(builder);
    builder->payload_hash = qbatch_hash(payload);
    size_t envelope_size =
        QBATCH_HEADER_SIZE + builder->entries.size + builder->keys.size + builder->dictionary.size;
    builder->envelope_size = (uint32_t)q_align_up(envelope_size, ALIGN);
    builder->is_closed = true;

    *ret_envelope_size = builder->envelope_size;
    *ret_payload_size = (uint32_t)q_align_up(payload.size, ALIGN);
    return Q_OK;
}

static enum q_err
compress(struct qbatch_builder *builder)
{
    /* With no more room than what pays, LZ4 gives up by itself and early. */
    size_t size = builder->content.size;
    size_t size_max = size - (size + 7) / 8;
    builder->packed.size = 0;
    Q_TRY(buffer_reserve(&builder->packed, size_max));
    int packed_size = LZ4_compress_default(
        (const char *)builder->content.data, (char *)builder->packed.data, (int)size,
        (int)size_max);
    if (packed_size <= 0) return Q_OK;

    builder->codec = QBATCH_CODEC_LZ4;
    builder->packed.size = (size_t)packed_size;
    return Q_OK;
}

static struct q_bytes
payload_of(const struct qbatch_builder *builder)
{
    return buffer_bytes(builder->codec == QBATCH_CODEC_LZ4 ? &builder->packed : &builder->content);
}

void
qbatch_builder_write(
    struct qbatch_builder *builder,
    const struct qbatch_request_place *place,
    uint8_t *envelope,
    uint8_t *payload)
{
    Q_ASSERT(builder->is_closed);
    Q_ASSERT(place->request_index < place->request_count);

    uint8_t *to = write_header(builder, place, envelope);
    to = write_entries(builder, to);
    to = write_bytes(to, buffer_bytes(&builder->keys));
    to = write_bytes(to, q_bytes_from(builder->dictionary.text, builder->dictionary.size));
    write_padding(to, (size_t)(to - envelope));
    struct q_bytes hashed = {
        .data = envelope + QBATCH_MAGIC,
        .size = builder->envelope_size - QBATCH_MAGIC,
    };
    q_store_le64(envelope + QBATCH_ENVELOPE_HASH, qbatch_hash(hashed));

    struct q_bytes stored = payload_of(builder);
    write_padding(write_bytes(payload, stored), stored.size);
}

static uint8_t *
write_header(
    const struct qbatch_builder *builder,
    const struct qbatch_request_place *place,
    uint8_t *envelope)
{
    memset(envelope, 0, QBATCH_HEADER_SIZE);
    q_store_le32(envelope + QBATCH_MAGIC, QBATCH_MAGIC_VALUE);
    envelope[QBATCH_VERSION] = QBATCH_VERSION_VALUE;
    envelope[QBATCH_CODEC] = (uint8_t)builder->codec;
    q_store_le32(envelope + QBATCH_ENVELOPE_LENGTH, builder->envelope_size);
    q_store_le32(envelope + QBATCH_PAYLOAD_LENGTH, (uint32_t)payload_of(builder).size);
    q_store_le32(envelope + QBATCH_CONTENT_LENGTH, (uint32_t)builder->content.size);
    q_store_le32(envelope + QBATCH_MESSAGE_COUNT, builder->count);
    q_store_le32(envelope + QBATCH_KEY_COUNT, (uint32_t)(builder->keys.size / QBATCH_KEY_SIZE));
    q_store_le16(envelope + QBATCH_TAG_COUNT, (uint16_t)builder->dictionary.count);
    q_store_le64(envelope + QBATCH_BASE_TIME_MS, builder->time_ms_min);
    memcpy(
        envelope + QBATCH_PRODUCER_ID, builder->options.producer_id,
        sizeof(builder->options.producer_id));
    q_store_le64(envelope + QBATCH_REQUEST_SEQUENCE, place->request_sequence);
    q_store_le32(envelope + QBATCH_REQUEST_INDEX, place->request_index);
    q_store_le32(envelope + QBATCH_REQUEST_COUNT, place->request_count);
    if (place->due_ms != 0) q_store_le16(envelope + QBATCH_FLAGS, QBATCH_FLAG_DELAYED);
    q_store_le64(envelope + QBATCH_DUE_OR_ORIGIN, place->due_ms);
    q_store_le64(envelope + QBATCH_PAYLOAD_HASH, builder->payload_hash);
    return envelope + QBATCH_HEADER_SIZE;
}

static uint8_t *
write_entries(const struct qbatch_builder *builder, uint8_t *to)
{
    uint8_t *end = write_bytes(to, buffer_bytes(&builder->entries));

    /* Deltas were taken against the first message, modulo 2^32. If an earlier one came later, all
     * of them shift; the sum is exact, since all times lie within 2^32 of the earliest. */
    uint32_t shift = (uint32_t)(builder->time_ms_first - builder->time_ms_min);
    if (shift == 0) return end;
    for (; to < end; to += QBATCH_ENTRY_SIZE) {
        uint8_t *delta = to + QBATCH_ENTRY_TIME_DELTA;
        q_store_le32(delta, q_load_le32(delta) + shift);
    }
    return end;
}

/* Zeros after `size` bytes, up to the next multiple of 8. */
static void
write_padding(uint8_t *to, size_t size)
{
    memset(to, 0, q_align_up(size, ALIGN) - size);
}

void
qbatch_builder_reset(struct qbatch_builder *builder)
{
    builder->count = 0;
    builder->content.size = 0;
    builder->entries.size = 0;
    builder->keys.size = 0;
    builder->packed.size = 0;
    builder->is_closed = false;
    dictionary_cut(&builder->dictionary, 0);
}

void
qbatch_set_prefix(
    uint8_t *envelope, uint32_t subject_id, uint64_t first_sequence, uint64_t store_time_ms)
{
    q_store_le16(envelope + QBATCH_RECORD_KIND, QBATCH_RECORD_KIND_BATCH);
    q_store_le16(envelope + QBATCH_RECORD_FLAGS, 0);
    q_store_le32(envelope + QBATCH_RECORD_LENGTH, q_load_le32(envelope + QBATCH_ENVELOPE_LENGTH));
    q_store_le32(envelope + QBATCH_SUBJECT_ID, subject_id);
    q_store_le32(envelope + QBATCH_PREFIX_ZERO, 0);
    q_store_le64(envelope + QBATCH_FIRST_SEQUENCE, first_sequence);
    q_store_le64(envelope + QBATCH_STORE_TIME_MS, store_time_ms);
}

/* The message's tags as bits. False, and nothing changed, when the dictionary can't take them. */
static bool
dictionary_add_all(
    struct dictionary *dictionary, const struct qbatch_message *message, uint64_t *ret_tags)
{
    uint32_t count_before = dictionary->count;
    uint64_t tags = 0;
    for (uint32_t i = 0; i < message->tag_count; i++) {
        uint32_t number = 0;
        if (!dictionary_add(dictionary, message->tags[i], &number)) {
            dictionary_cut(dictionary, count_before);
            return false;
        }
        tags |= UINT64_C(1) << number;
    }
    if (message->only.size > 0) {
        uint8_t text[QBATCH_TAG_BYTES_MAX];
        uint32_t number = 0;
        text[0] = QBATCH_ONLY;
        memcpy(text + 1, message->only.data, message->only.size);
        if (!dictionary_add(dictionary, q_bytes_from(text, message->only.size + 1), &number)) {
            dictionary_cut(dictionary, count_before);
            return false;
        }
        tags |= UINT64_C(1) << number;
    }
    *ret_tags = tags;
    return true;
}

static bool
dictionary_add(struct dictionary *dictionary, struct q_bytes tag, uint32_t *ret_number)
{
    uint64_t hash = qbatch_hash(tag);
    uint32_t slot = dictionary_slot_of(hash);
    for (; dictionary->slots[slot] != 0; slot = (slot + 1) % DICTIONARY_SLOTS) {
        uint32_t number = dictionary->slots[slot] - 1u;
        if (dictionary->hashes[number] != hash) continue;
        const uint8_t *text = dictionary->text + dictionary->starts[number];
        if (!q_bytes_equal(q_bytes_from(text + 1, text[0]), tag)) continue;
        *ret_number = number;
        return true;
    }

    if (dictionary->count == QBATCH_DICTIONARY_MAX) return false;
    uint32_t number = dictionary->count++;
    dictionary->starts[number] = dictionary->size;
    dictionary->hashes[number] = hash;
    dictionary->slots[slot] = (uint8_t)(number + 1);
    uint8_t *to = dictionary->text + dictionary->size;
    *to = (uint8_t)tag.size;
    write_bytes(to + 1, tag);
    dictionary->size += 1 + (uint32_t)tag.size;
    *ret_number = number;
    return true;
}

/* Forget all but the first `count` tags. */
static void
dictionary_cut(struct dictionary *dictionary, uint32_t count)
{
    if (dictionary->count == count) return;
    dictionary->size = dictionary->starts[count];
    dictionary->count = count;
    memset(dictionary->slots, 0, sizeof(dictionary->slots));
    for (uint32_t number = 0; number < count; number++) {
        uint32_t slot = dictionary_slot_of(dictionary->hashes[number]);
        while (dictionary->slots[slot] != 0)
            slot = (slot + 1) % DICTIONARY_SLOTS;
        dictionary->slots[slot] = (uint8_t)(number + 1);
    }
}

static uint32_t
dictionary_slot_of(uint64_t hash)
{
    return (uint32_t)(hash % DICTIONARY_SLOTS);
}

static enum q_err
buffer_reserve(struct buffer *buffer, size_t extra)
{
    if (extra <= buffer->capacity - buffer->size) return Q_OK;

    size_t capacity = q_max_u64(buffer->capacity, BUFFER_FIRST);
    while (capacity - buffer->size < extra)
        capacity *= 2;
    uint8_t *data = realloc(buffer->data, capacity);
    if (data == NULL)
        return Q_FAIL(Q_E_NOMEM, .what = q_text("no memory for a batch of %zu bytes", capacity));
    buffer->data = data;
    buffer->capacity = capacity;
    return Q_OK;
}

static struct q_bytes
buffer_bytes(const struct buffer *buffer)
{
    return q_bytes_from(buffer->data, buffer->size);
}
