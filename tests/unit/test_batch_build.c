/*
 * What goes into a builder comes out of the batch, and what must not go in is refused with its
 * own reason.
 */
#include <criterion/criterion.h>

#include <stdio.h>

#include "batch_maker.h"

static uint8_t zeros[QBATCH_MESSAGE_BYTES_MAX + 1];

static void assert_same_message(
    const struct qbatch *batch, const struct qbatch_view *view, const struct qbatch_message *sent);
static void assert_same_tags(
    const struct qbatch *batch, uint64_t tags, const struct qbatch_message *sent);
static void assert_same_keys(const struct qbatch *batch, const struct made_message *sent);

/* Random batches, compressed or not, come back message by message as they were added. */
Test(batch_build, round_trip)
{
    enum {
        ROUNDS = 300,
        MESSAGES_MAX = 40
    };
    static struct made_message sent[MESSAGES_MAX];
    struct random_source random = random_from_seed(5);
    struct qbatch_builder *builders[] = { make_builder(false), make_builder(true) };
    unsigned compressed = 0;
    for (int round = 0; round < ROUNDS; round++) {
        bool squeezable = random_below(&random, 2) == 0;
        struct qbatch_builder *builder = builders[round % 2];
        uint32_t count = 1 + random_below(&random, MESSAGES_MAX);
        for (uint32_t i = 0; i < count; i++) {
            make_message(&random, 60, squeezable, &sent[i]);
            cr_assert_eq(qbatch_builder_add(builder, &sent[i].message), Q_OK);
        }
        cr_assert_eq(qbatch_builder_count(builder), count);
        struct made_batch made = make_batch(builder);
        cr_assert_eq(made.envelope_size % 8, 0);
        cr_assert_eq(made.payload_size % 8, 0);

        struct qbatch batch = made_batch_open(&made);
        cr_assert_eq(batch.envelope_length, made.envelope_size);
        cr_assert_eq(batch.payload_padded_length, made.payload_size);
        cr_assert_eq(batch.message_count, count);
        cr_assert_eq(batch.request_sequence, 77);
        cr_assert_eq(batch.request_index, 2);
        cr_assert_eq(batch.request_count, 5);
        cr_assert(q_is_zero(made.envelope, QBATCH_PREFIX_SIZE));
        cr_assert_eq(qbatch_check_payload(&batch, made.payload), Q_OK);
        compressed += batch.codec == QBATCH_CODEC_LZ4;

        uint8_t *scratch = malloc(batch.content_length);
        struct q_bytes content;
        cr_assert_eq(qbatch_content(&batch, made.payload, scratch, &content), Q_OK);
        struct qbatch_walk walk;
        struct qbatch_view view;
        qbatch_walk_start(&walk, &batch, content);
        for (uint32_t i = 0; i < count; i++) {
            cr_assert_eq(qbatch_walk_next(&walk, true, &view), Q_OK);
            cr_assert_eq(view.index, i);
            assert_same_message(&batch, &view, &sent[i].message);
        }
        cr_assert_eq(qbatch_walk_next(&walk, true, &view), Q_END);
        assert_same_keys(&batch, sent);
        free(scratch);
        made_batch_free(&made);
    }
    cr_assert_gt(compressed, 20);
    qbatch_builder_free(builders[0]);
    qbatch_builder_free(builders[1]);
}

static void
assert_same_message(
    const struct qbatch *batch, const struct qbatch_view *view, const struct qbatch_message *sent)
{
    cr_assert(q_bytes_equal(view->body, sent->body));
    cr_assert_eq(view->entry.time_ms, sent->time_ms);
    cr_assert_eq(view->entry.counter, sent->counter);
    cr_assert_eq(view->entry.order_key_hash != 0, sent->order_key.size > 0);
    cr_assert_eq(view->id.time_ms, sent->time_ms);
    cr_assert_eq(view->id.producer, UINT64_C(0x9f3c01ab22cd));
    cr_assert_eq(view->id.counter, sent->counter);
    struct qbatch_id id = qbatch_id_at(batch, view->index);
    cr_assert_eq(id.time_ms, view->id.time_ms);
    cr_assert_eq(id.counter, view->id.counter);
    assert_same_tags(batch, view->entry.tags, sent);

    struct q_bytes at = view->properties;
    struct q_bytes key;
    struct q_bytes value;
    for (uint32_t i = 0; i < sent->property_count; i++) {
        cr_assert_eq(qbatch_property_next(&at, &key, &value), Q_OK);
        cr_assert(q_bytes_equal(key, sent->properties[i].key));
        cr_assert(q_bytes_equal(value, sent->properties[i].value));
    }
    for (uint32_t i = 0; i < sent->key_count; i++) {
        cr_assert_eq(qbatch_property_next(&at, &key, &value), Q_OK);
        cr_assert(q_bytes_equal(key, q_bytes_from_text(QBATCH_PROPERTY_KEY)));
        cr_assert(q_bytes_equal(value, sent->keys[i]));
    }
    if (sent->order_key.size > 0) {
        cr_assert_eq(qbatch_property_next(&at, &key, &value), Q_OK);
        cr_assert(q_bytes_equal(key, q_bytes_from_text(QBATCH_PROPERTY_ORDER_KEY)));
        cr_assert(q_bytes_equal(value, sent->order_key));
    }
    cr_assert_eq(qbatch_property_next(&at, &key, &value), Q_END);
}

static void
assert_same_tags(const struct qbatch *batch, uint64_t tags, const struct qbatch_message *sent)
{
    for (uint32_t i = 0; i < batch->tag_count; i++) {
        bool expected = false;
        for (uint32_t j = 0; j < sent->tag_count; j++)
            expected |= q_bytes_equal(sent->tags[j], qbatch_tag_at(batch, i));
        cr_assert_eq((tags >> i & 1) != 0, expected);
    }
}

static void
assert_same_keys(const struct qbatch *batch, const struct made_message *sent)
{
    uint32_t at = batch->keys_at;
    for (uint32_t i = 0; i < batch->message_count; i++) {
        for (uint32_t j = 0; j < sent[i].message.key_count; j++, at += QBATCH_KEY_SIZE)
            cr_assert_eq(q_load_le32(batch->envelope + at), i);
    }
    cr_assert_eq(at, batch->tags_at);
}

/* The bytes of a batch are those of the format: a change of any of them is a new version. */
Test(batch_build, golden)
{
    static const uint8_t expected_payload[] = {
        /* count, bytes, key length, value length, "a", "1", "hi", padding */
        1, 0, 6, 0, 1, 0, 1, 0, 'a', '1', 'h', 'i', 0, 0, 0, 0,
    };
    struct qbatch_builder *builder = make_builder(false);
    struct qbatch_property property = { q_bytes_from_text("a"), q_bytes_from_text("1") };
    struct q_bytes tag = q_bytes_from_text("paid");
    struct qbatch_message message = {
        .body = q_bytes_from_text("hi"),
        .properties = &property,
        .property_count = 1,
        .tags = &tag,
        .tag_count = 1,
        .time_ms = UINT64_C(0x010203040506),
        .counter = 9,
    };
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    struct made_batch made = make_batch(builder);
    cr_assert_eq(made.payload_size, sizeof(expected_payload));
    cr_assert_arr_eq(made.payload, expected_payload, sizeof(expected_payload));

    cr_assert_eq(made.envelope_size, 128 + 32 + 8);
    cr_assert_arr_eq(made.envelope + 40, "QBT0\0\0\0\0", 8);
    cr_assert_eq(q_load_le32(made.envelope + 48), 168);
    cr_assert_eq(q_load_le32(made.envelope + 52), 12);
    cr_assert_eq(q_load_le32(made.envelope + 56), 12);
    cr_assert_eq(q_load_le32(made.envelope + 60), 1);
    cr_assert_eq(q_load_le16(made.envelope + 68), 1);
    cr_assert_arr_eq(made.envelope + 72, "\6\5\4\3\2\1\0\0", 8);
    cr_assert_eq(q_load_le64(made.envelope + 112), UINT64_C(0xb2c1507cf82c2179));
    cr_assert_eq(q_load_le32(made.envelope + 128), 12);
    cr_assert_eq(q_load_le64(made.envelope + 136), 1);
    cr_assert_eq(q_load_le32(made.envelope + 152), 9);
    cr_assert_arr_eq(made.envelope + 160, "\4paid\0\0\0", 8);
    made_batch_free(&made);
    qbatch_builder_free(builder);
}

/* Messages with times in any order keep their times; the base is the earliest. */
Test(batch_build, times_out_of_order)
{
    static const uint64_t times[] = { 5000000000, 4999999999, 5000000007, 705032712, 5000000000 };
    struct qbatch_builder *builder = make_builder(false);
    for (size_t i = 0; i < 5; i++) {
        struct qbatch_message message = { .time_ms = times[i] };
        cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    }
    struct made_batch made = make_batch(builder);
    struct qbatch batch = made_batch_open(&made);
    cr_assert_eq(batch.base_time_ms, 705032712);
    for (uint32_t i = 0; i < 5; i++)
        cr_assert_eq(qbatch_id_at(&batch, i).time_ms, times[i]);
    made_batch_free(&made);
    qbatch_builder_free(builder);
}

/* Times too far apart for one batch close it, in both directions. */
Test(batch_build, times_too_far_apart)
{
    struct qbatch_builder *builder = make_builder(false);
    struct qbatch_message message = { .time_ms = UINT64_C(5) << 32 };
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    message.time_ms = UINT64_C(6) << 32;
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_AGAIN);
    message.time_ms = UINT64_C(4) << 32;
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_AGAIN);
    message.time_ms = (UINT64_C(6) << 32) - 1;
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    message.time_ms = (UINT64_C(5) << 32) - 1;
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_AGAIN);
    qbatch_builder_free(builder);
}

/* A batch is full after its number of messages or bytes; an empty one takes any message. */
Test(batch_build, full)
{
    struct qbatch_builder *builder = NULL;
    struct qbatch_builder_options options = { .messages_max = 3, .bytes_max = 100 };
    cr_assert_eq(qbatch_builder_new(&options, &builder), Q_OK);
    struct qbatch_message small = { .body = q_bytes_from(zeros, 1) };
    struct qbatch_message large = { .body = q_bytes_from(zeros, QBATCH_MESSAGE_BYTES_MAX) };
    struct qbatch_message half = { .body = q_bytes_from(zeros, 46) };

    for (int i = 0; i < 3; i++)
        cr_assert_eq(qbatch_builder_add(builder, &small), Q_OK);
    cr_assert_eq(qbatch_builder_add(builder, &small), Q_AGAIN);
    cr_assert_eq(qbatch_builder_count(builder), 3);
    cr_assert_eq(qbatch_builder_content_bytes(builder), 15);
    qbatch_builder_reset(builder);

    cr_assert_eq(qbatch_builder_add(builder, &large), Q_OK);
    cr_assert_eq(qbatch_builder_add(builder, &small), Q_AGAIN);
    struct made_batch made = make_batch(builder);
    struct qbatch batch = made_batch_open(&made);
    cr_assert_eq(batch.content_length, QBATCH_MESSAGE_HEAD + QBATCH_MESSAGE_BYTES_MAX);
    made_batch_free(&made);

    cr_assert_eq(qbatch_builder_add(builder, &half), Q_OK);
    cr_assert_eq(qbatch_builder_add(builder, &half), Q_OK);
    cr_assert_eq(qbatch_builder_content_bytes(builder), 100);
    cr_assert_eq(qbatch_builder_add(builder, &(struct qbatch_message){ 0 }), Q_AGAIN);
    qbatch_builder_free(builder);
}

/* Without limits of its own a builder takes 512 messages, and at most 64 KiB. */
Test(batch_build, defaults)
{
    struct qbatch_builder *builder = make_builder(false);
    struct qbatch_message message = { .body = q_bytes_from(zeros, 1) };
    for (int i = 0; i < 512; i++)
        cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_AGAIN);
    qbatch_builder_reset(builder);
    message.body.size = 32 * 1024 - QBATCH_MESSAGE_HEAD;
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    cr_assert_eq(qbatch_builder_add(builder, &(struct qbatch_message){ 0 }), Q_AGAIN);
    qbatch_builder_free(builder);
}

/* A 65th tag closes the batch, leaves nothing behind, and is the first of the next one. */
Test(batch_build, dictionary_overflow)
{
    char words[70][8];
    struct qbatch_builder *builder = make_builder(false);
    for (int i = 0; i < 70; i++)
        (void)snprintf(words[i], sizeof(words[i]), "t%d", i);
    for (int i = 0; i < 63; i++) {
        struct q_bytes tag = q_bytes_from_text(words[i]);
        struct qbatch_message message = { .tags = &tag, .tag_count = 1 };
        cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    }

    /* Two new ones where one has room: neither may stay. */
    struct q_bytes two[] = { q_bytes_from_text(words[63]), q_bytes_from_text(words[64]) };
    struct qbatch_message message = { .tags = two, .tag_count = 2 };
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_AGAIN);
    /* The same new one twice needs one place, and old ones need none. */
    struct q_bytes twice[] = { q_bytes_from_text(words[65]), q_bytes_from_text(words[65]) };
    message.tags = twice;
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    struct q_bytes old[] = { q_bytes_from_text(words[0]), q_bytes_from_text(words[62]) };
    message.tags = old;
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    message.tags = two;
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_AGAIN);

    struct made_batch made = make_batch(builder);
    struct qbatch batch = made_batch_open(&made);
    struct qbatch_entry entry;
    cr_assert_eq(batch.tag_count, 64);
    cr_assert(q_bytes_equal(qbatch_tag_at(&batch, 63), q_bytes_from_text("t65")));
    qbatch_entry_at(&batch, 63, &entry);
    cr_assert_eq(entry.tags, UINT64_C(1) << 63);
    qbatch_entry_at(&batch, 64, &entry);
    cr_assert_eq(entry.tags, 1 | UINT64_C(1) << 62);
    made_batch_free(&made);

    cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    made = make_batch(builder);
    batch = made_batch_open(&made);
    cr_assert_eq(batch.tag_count, 2);
    cr_assert(q_bytes_equal(qbatch_tag_at(&batch, 0), q_bytes_from_text("t63")));
    made_batch_free(&made);
    qbatch_builder_free(builder);
}

/* LZ4 is used where it saves an eighth, even on what shrinks most, and only if asked for. */
Test(batch_build, compression)
{
    uint8_t noise[256];
    struct random_source random = random_from_seed(6);
    for (size_t i = 0; i < sizeof(noise); i++)
        noise[i] = (uint8_t)random_below(&random, 256);
    /* A zero-filled twentieth: LZ4 saves it, but less than an eighth in all. */
    uint8_t mostly_noise[1000] = { 0 };
    for (size_t i = 0; i < 950; i++)
        mostly_noise[i] = (uint8_t)random_below(&random, 256);
    struct {
        struct q_bytes body;
        bool compress;
        enum qbatch_codec codec;
    } cases[] = {
        { q_bytes_from(zeros, 1000), true, QBATCH_CODEC_LZ4 },
        { q_bytes_from(zeros, QBATCH_MESSAGE_BYTES_MAX), true, QBATCH_CODEC_LZ4 },
        { q_bytes_from(zeros, 1000), false, QBATCH_CODEC_NONE },
        { q_bytes_from(noise, sizeof(noise)), true, QBATCH_CODEC_NONE },
        { q_bytes_from(mostly_noise, sizeof(mostly_noise)), true, QBATCH_CODEC_NONE },
        { q_bytes_from(zeros, 0), true, QBATCH_CODEC_NONE },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct qbatch_builder *builder = make_builder(cases[i].compress);
        struct qbatch_message message = { .body = cases[i].body };
        cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
        struct made_batch made = make_batch(builder);
        struct qbatch batch = made_batch_open(&made);
        cr_assert_eq(batch.codec, cases[i].codec);
        if (batch.codec == QBATCH_CODEC_LZ4)
            cr_assert_leq(batch.payload_length, batch.content_length / 8 * 7);

        uint8_t *scratch = malloc(batch.content_length);
        struct q_bytes content;
        cr_assert_eq(qbatch_content(&batch, made.payload, scratch, &content), Q_OK);
        cr_assert_eq(content.size, cases[i].body.size + QBATCH_MESSAGE_HEAD);
        cr_assert(q_bytes_equal(
            q_bytes_from(content.data + QBATCH_MESSAGE_HEAD, cases[i].body.size), cases[i].body));
        free(scratch);
        made_batch_free(&made);
        qbatch_builder_free(builder);
    }
}

static void
assert_refused(const struct qbatch_message *message, enum q_err err, const char *text)
{
    struct qbatch_builder *builder = make_builder(false);
    cr_assert_eq(qbatch_builder_add(builder, message), err);
    cr_assert_eq(q_fault_last()->err, err);
    cr_assert_str_eq(q_fault_last()->what, text);
    cr_assert_eq(qbatch_builder_count(builder), 0);
    /* A full builder refuses it, too, and does not ask for another try. */
    cr_assert_eq(qbatch_builder_add(builder, &(struct qbatch_message){ .time_ms = 1 }), Q_OK);
    cr_assert_eq(qbatch_builder_add(builder, message), err);
    cr_assert_eq(qbatch_builder_count(builder), 1);
    cr_assert_eq(qbatch_builder_content_bytes(builder), QBATCH_MESSAGE_HEAD);
    qbatch_builder_free(builder);
}

static void
assert_accepted(const struct qbatch_message *message)
{
    struct qbatch_builder *builder = make_builder(false);
    cr_assert_eq(qbatch_builder_add(builder, message), Q_OK);
    struct made_batch made = make_batch(builder);
    (void)made_batch_open(&made);
    made_batch_free(&made);
    qbatch_builder_free(builder);
}

/* Body and properties together have a limit. */
Test(batch_build, limit_of_message)
{
    struct qbatch_message message = { .body = q_bytes_from(zeros, QBATCH_MESSAGE_BYTES_MAX) };
    assert_accepted(&message);
    message.body.size++;
    assert_refused(
        &message, Q_TOO_BIG,
        "a message of 4194305 bytes and 0 of properties exceeds the limit of 4194304");
    struct qbatch_property property = { q_bytes_from_text("k"), q_bytes_from_text("v") };
    message.properties = &property;
    message.property_count = 1;
    message.body.size = QBATCH_MESSAGE_BYTES_MAX - 6;
    assert_accepted(&message);
    message.body.size++;
    assert_refused(
        &message, Q_TOO_BIG,
        "a message of 4194299 bytes and 6 of properties exceeds the limit of 4194304");
}

/* Properties have a limit by number, with the keys among them, and one by bytes. */
Test(batch_build, limit_of_properties)
{
    static struct qbatch_property properties[QBATCH_PROPERTIES_MAX + 1];
    struct q_bytes key = q_bytes_from_text("k");
    struct qbatch_message message = { .properties = properties, .property_count = 64 };
    assert_accepted(&message);
    message.property_count++;
    assert_refused(
        &message, Q_TOO_BIG,
        "65 properties of a message, its keys among them, exceed the limit of 64");
    message.property_count = 63;
    message.keys = &key;
    message.key_count = 1;
    assert_accepted(&message);
    message.order_key = key;
    assert_refused(
        &message, Q_TOO_BIG,
        "65 properties of a message, its keys among them, exceed the limit of 64");

    properties[0].value = q_bytes_from(zeros, QBATCH_PROPERTY_BYTES_MAX - QBATCH_PROPERTY_HEAD);
    message = (struct qbatch_message){ .properties = properties, .property_count = 1 };
    assert_accepted(&message);
    properties[0].value.size++;
    assert_refused(&message, Q_TOO_BIG, "32769 bytes of properties exceed the limit of 32768");
    /* Sizes whose sum would overflow 32 bits. */
    properties[0].value.size = UINT32_MAX;
    assert_refused(&message, Q_TOO_BIG, "4294967299 bytes of properties exceed the limit of 32768");
}

/* Tags have a limit by number and by length, and are never empty or with a NUL byte. */
Test(batch_build, limit_of_tags)
{
    char text[QBATCH_TAG_BYTES_MAX + 1];
    memset(text, 'x', sizeof(text));
    struct q_bytes tags[QBATCH_TAGS_MAX + 1];
    for (size_t i = 0; i <= QBATCH_TAGS_MAX; i++)
        tags[i] = q_bytes_from(text, i + 1);
    tags[0].size = QBATCH_TAG_BYTES_MAX;
    struct qbatch_message message = { .tags = tags, .tag_count = QBATCH_TAGS_MAX };
    assert_accepted(&message);
    message.tag_count++;
    assert_refused(&message, Q_TOO_BIG, "11 tags of a message exceed the limit of 10");
    message.tag_count = 1;
    tags[0].size++;
    assert_refused(&message, Q_TOO_BIG, "tag of 256 bytes exceeds the limit of 255");
    tags[0].size = 0;
    assert_refused(&message, Q_INVALID, "empty tag");
    tags[0] = q_bytes_from("a\0b", 3);
    assert_refused(&message, Q_INVALID, "tag with a NUL byte");
}

/* Keys likewise, the order key among them. */
Test(batch_build, limit_of_keys)
{
    char text[QBATCH_KEY_BYTES_MAX + 1];
    memset(text, 'x', sizeof(text));
    struct q_bytes keys[QBATCH_KEYS_MAX + 1];
    for (size_t i = 0; i <= QBATCH_KEYS_MAX; i++)
        keys[i] = q_bytes_from(text, QBATCH_KEY_BYTES_MAX);
    struct qbatch_message message = {
        .keys = keys,
        .key_count = QBATCH_KEYS_MAX,
        .order_key = keys[0],
    };
    assert_accepted(&message);
    message.key_count++;
    assert_refused(&message, Q_TOO_BIG, "9 keys of a message exceed the limit of 8");
    message.key_count = 1;
    keys[0].size++;
    assert_refused(&message, Q_TOO_BIG, "key of 256 bytes exceeds the limit of 255");
    keys[0].size = 0;
    assert_refused(&message, Q_INVALID, "empty key");
    keys[0] = q_bytes_from("\0", 1);
    assert_refused(&message, Q_INVALID, "key with a NUL byte");
    message.key_count = 0;
    message.order_key = q_bytes_from(text, QBATCH_KEY_BYTES_MAX + 1);
    assert_refused(&message, Q_TOO_BIG, "order key of 256 bytes exceeds the limit of 255");
    message.order_key = q_bytes_from("a\0", 2);
    assert_refused(&message, Q_INVALID, "order key with a NUL byte");
}

/* Names that begin with '%' are the queue's own. */
Test(batch_build, reserved_names)
{
    struct qbatch_property property = { q_bytes_from_text("%key"), q_bytes_from_text("x") };
    struct qbatch_message message = { .properties = &property, .property_count = 1 };
    assert_refused(
        &message, Q_INVALID, "property '%key' begins with '%', which is kept for the queue's own");
    struct q_bytes tag = q_bytes_from_text("%billing");
    message = (struct qbatch_message){ .tags = &tag, .tag_count = 1 };
    assert_refused(
        &message, Q_INVALID, "tag '%billing' begins with '%', which is kept for the queue's own");
}

/* A message for one group has all tags that another may have, and is for no other group. */
Test(batch_build, for_one_group)
{
    struct q_bytes tags[QBATCH_TAGS_MAX];
    char names[QBATCH_TAGS_MAX][2];
    for (uint32_t i = 0; i < QBATCH_TAGS_MAX; i++) {
        names[i][0] = (char)('a' + i);
        tags[i] = q_bytes_from(names[i], 1);
    }
    struct qbatch_builder *builder;
    struct qbatch_builder_options options = { 0 };
    cr_assert_eq(qbatch_builder_new(&options, &builder), Q_OK);
    struct qbatch_message message = { .tags = tags, .tag_count = QBATCH_TAGS_MAX };
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    message.only = q_bytes_from_text("billing");
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    uint32_t envelope_size;
    uint32_t payload_size;
    cr_assert_eq(qbatch_builder_close(builder, &envelope_size, &payload_size), Q_OK);
    uint8_t *envelope = malloc(envelope_size);
    uint8_t *payload = malloc(payload_size + 1);
    cr_assert(envelope != NULL && payload != NULL);
    struct qbatch_request_place place = { .request_count = 1 };
    qbatch_builder_write(builder, &place, envelope, payload);
    qbatch_builder_free(builder);
    struct qbatch batch;
    cr_assert_eq(qbatch_open(q_bytes_from(envelope, envelope_size), &batch), Q_OK);
    struct qbatch_entry all;
    struct qbatch_entry one;
    qbatch_entry_at(&batch, 0, &all);
    qbatch_entry_at(&batch, 1, &one);
    cr_assert_eq(qbatch_others(&batch, q_bytes_from_text("billing")), 0);
    uint64_t others = qbatch_others(&batch, q_bytes_from_text("post"));
    cr_assert_eq(all.tags & others, 0);
    cr_assert_neq(one.tags & others, 0);
    cr_assert_eq(one.tags & ~others, all.tags);
    free(envelope);
    free(payload);
}

/* Creation times have 48 bits. */
Test(batch_build, limit_of_time)
{
    struct qbatch_message message = { .time_ms = (UINT64_C(1) << 48) - 1 };
    assert_accepted(&message);
    message.time_ms++;
    assert_refused(
        &message, Q_TOO_BIG, "creation time 281474976710656 ms exceeds the limit of 2^48 ms");
}

/* A builder can't be told to exceed the format's limits. */
Test(batch_build, limits_of_options)
{
    struct qbatch_builder *builder = NULL;
    struct qbatch_builder_options options = { .messages_max = QBATCH_MESSAGES_MAX + 1 };
    cr_assert_eq(qbatch_builder_new(&options, &builder), Q_TOO_BIG);
    cr_assert_str_eq(q_fault_last()->what, "10001 messages in a batch exceed the limit of 10000");
    options = (struct qbatch_builder_options){ .bytes_max = QBATCH_CONTENT_BYTES_MAX + 1 };
    cr_assert_eq(qbatch_builder_new(&options, &builder), Q_TOO_BIG);
    cr_assert_str_eq(q_fault_last()->what, "4259841 bytes in a batch exceed the limit of 4259840");
    cr_assert_null(builder);
}

/* A batch of as many messages as the format has, with tags and keys, can be opened. */
Test(batch_build, largest_count)
{
    struct qbatch_builder *builder = NULL;
    struct qbatch_builder_options options = {
        .messages_max = QBATCH_MESSAGES_MAX,
        .bytes_max = QBATCH_CONTENT_BYTES_MAX,
    };
    cr_assert_eq(qbatch_builder_new(&options, &builder), Q_OK);
    struct q_bytes word = q_bytes_from_text("word");
    struct q_bytes keys[QBATCH_KEYS_MAX];
    for (size_t i = 0; i < QBATCH_KEYS_MAX; i++)
        keys[i] = word;
    struct qbatch_message message = {
        .tags = &word,
        .tag_count = 1,
        .keys = keys,
        .key_count = QBATCH_KEYS_MAX,
    };
    for (int i = 0; i < QBATCH_MESSAGES_MAX; i++)
        cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_AGAIN);
    struct made_batch made = make_batch(builder);
    struct qbatch batch = made_batch_open(&made);
    cr_assert_eq(batch.key_count, QBATCH_MESSAGES_MAX * QBATCH_KEYS_MAX);
    made_batch_free(&made);
    qbatch_builder_free(builder);
}
