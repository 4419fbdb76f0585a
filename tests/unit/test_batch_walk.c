/*
 * Messages of a content, their properties, and filters by tag.
 */
#include <criterion/criterion.h>

#include <stdio.h>

#include "batch_maker.h"

static enum q_err
walk_to_the_end(const struct qbatch *batch, struct q_bytes content, bool check, uint32_t *ret_count)
{
    struct qbatch_walk walk;
    struct qbatch_view view;
    enum q_err err;
    *ret_count = 0;
    qbatch_walk_start(&walk, batch, content);
    while ((err = qbatch_walk_next(&walk, check, &view)) == Q_OK)
        (*ret_count)++;
    return err;
}

/* Every damaged byte of a content is found by the message's own hash, at that message. */
Test(batch_walk, damage_is_found_by_message)
{
    struct made_batch made = make_random_batch(30, 6, false);
    struct qbatch batch = made_batch_open(&made);
    struct q_bytes content = q_bytes_from(made.payload, batch.content_length);
    struct qbatch_entry entry;
    uint32_t message = 0;
    uint32_t message_end = 0;
    qbatch_entry_at(&batch, 0, &entry);
    message_end = entry.length;
    for (uint32_t at = 0; at < batch.content_length; at++) {
        if (at == message_end) {
            qbatch_entry_at(&batch, ++message, &entry);
            message_end += entry.length;
        }
        for (unsigned bit = 0; bit < 8; bit++) {
            uint32_t count = 0;
            made.payload[at] ^= (uint8_t)(1u << bit);
            cr_assert_eq(walk_to_the_end(&batch, content, true, &count), Q_E_CORRUPT);
            cr_assert_eq(count, message);
            made.payload[at] ^= (uint8_t)(1u << bit);
        }
    }
    made_batch_free(&made);
}

/* A content that is shorter or longer than the envelope says is damaged, and is not overrun. */
Test(batch_walk, wrong_length)
{
    struct made_batch made = make_random_batch(31, 4, false);
    struct qbatch batch = made_batch_open(&made);
    uint32_t count = 0;
    for (uint32_t size = 0; size < batch.content_length; size++) {
        uint8_t *cut = malloc(size > 0 ? size : 1);
        memcpy(cut, made.payload, size);
        cr_assert_eq(walk_to_the_end(&batch, q_bytes_from(cut, size), false, &count), Q_E_CORRUPT);
        free(cut);
    }
    uint8_t *longer = calloc(1, batch.content_length + 1);
    memcpy(longer, made.payload, batch.content_length);
    cr_assert_eq(
        walk_to_the_end(&batch, q_bytes_from(longer, batch.content_length + 1), false, &count),
        Q_E_CORRUPT);
    cr_assert_eq(count, 4);
    free(longer);
    made_batch_free(&made);
}

/* Without the hash's help, wrong counts and lengths of properties are found, and stay inside. */
Test(batch_walk, wrong_properties)
{
    struct qbatch_builder *builder = make_builder(false);
    struct qbatch_property properties[] = {
        { q_bytes_from_text("name"), q_bytes_from_text("value") },
        { q_bytes_from_text("other"), q_bytes_from_text("") },
    };
    struct qbatch_message message = {
        .properties = properties,
        .property_count = 2,
        .body = q_bytes_from_text("body"),
    };
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    struct made_batch made = make_batch(builder);
    struct qbatch batch = made_batch_open(&made);
    uint8_t *content = malloc(batch.content_length);
    static const struct {
        uint32_t at;
        uint16_t value;
    } cases[] = {
        { 0, 0 },  { 0, 1 },      { 0, 3 },  { 0, 65 }, { 0, 65535 }, { 2, 0 },     { 2, 21 },
        { 2, 23 }, { 2, 65535 },  { 4, 3 },  { 4, 5 },  { 4, 65535 }, { 6, 65535 }, { 6, 4 },
        { 6, 6 },  { 17, 65535 }, { 17, 6 }, { 19, 1 }, { 2, 27 },    { 2, 32769 },
    };
    uint32_t count = 0;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        memcpy(content, made.payload, batch.content_length);
        q_store_le16(content + cases[i].at, cases[i].value);
        cr_assert_eq(
            walk_to_the_end(&batch, q_bytes_from(content, batch.content_length), false, &count),
            Q_E_CORRUPT, "%u at %u", cases[i].value, cases[i].at);
    }
    memcpy(content, made.payload, batch.content_length);
    cr_assert_eq(
        walk_to_the_end(&batch, q_bytes_from(content, batch.content_length), true, &count), Q_END);
    free(content);
    made_batch_free(&made);
    qbatch_builder_free(builder);
}

/* Properties that claim to go on after the message's end are not followed. */
Test(batch_walk, properties_beyond_the_message)
{
    static const struct {
        uint16_t count, bytes, key_size, value_size;
        uint32_t body_size;
    } cases[] = {
        { 1, 1000, 0, 996, 10 }, /* all claims agree, only the message is shorter */
        { 2, 5, 0, 2, 5 },       /* the second one would begin beyond the end */
        { 1, 3, 0, 0, 3 },       /* not even a head */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t body[16] = { 0 };
        struct qbatch_builder *builder = make_builder(false);
        struct qbatch_message message = { .body = q_bytes_from(body, cases[i].body_size) };
        cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
        struct made_batch made = make_batch(builder);
        struct qbatch batch = made_batch_open(&made);

        uint8_t claims[8];
        q_store_le16(claims, cases[i].count);
        q_store_le16(claims + 2, cases[i].bytes);
        q_store_le16(claims + 4, cases[i].key_size);
        q_store_le16(claims + 6, cases[i].value_size);
        uint8_t *content = calloc(1, batch.content_length);
        memcpy(content, claims, q_min_u64(sizeof(claims), batch.content_length));
        uint32_t count = 0;
        struct q_bytes bytes = q_bytes_from(content, batch.content_length);
        cr_assert_eq(walk_to_the_end(&batch, bytes, false, &count), Q_E_CORRUPT);
        free(content);
        made_batch_free(&made);
        qbatch_builder_free(builder);
    }
}

/* Trusted envelopes may lie about their entries: the walk finds that itself. */
Test(batch_walk, wrong_entries)
{
    static const uint32_t lengths[] = { 0, 3, 1000000, UINT32_MAX };
    struct made_batch made = make_random_batch(32, 3, false);
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        q_store_le32(made.envelope + QBATCH_HEADER_SIZE + QBATCH_ENTRY_SIZE, lengths[i]);
        struct qbatch batch;
        uint32_t count = 0;
        cr_assert_eq(
            qbatch_open_trusted(q_bytes_from(made.envelope, made.envelope_size), &batch), Q_OK);
        struct q_bytes content = q_bytes_from(made.payload, batch.content_length);
        cr_assert_eq(walk_to_the_end(&batch, content, false, &count), Q_E_CORRUPT);
        cr_assert_eq(count, 1);
    }
    made_batch_free(&made);
}

/* A property is found by name, the first of several with one name; others are not found. */
Test(batch_walk, property_find)
{
    struct qbatch_builder *builder = make_builder(false);
    struct qbatch_property properties[] = {
        { q_bytes_from_text("color"), q_bytes_from_text("red") },
        { q_bytes_from_text("color"), q_bytes_from_text("blue") },
        { q_bytes_from_text("empty"), q_bytes_from_text("") },
    };
    struct qbatch_message message = {
        .properties = properties,
        .property_count = 3,
        .order_key = q_bytes_from_text("user-1"),
    };
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    struct made_batch made = make_batch(builder);
    struct qbatch batch = made_batch_open(&made);
    struct qbatch_walk walk;
    struct qbatch_view view;
    struct q_bytes value;
    qbatch_walk_start(&walk, &batch, q_bytes_from(made.payload, batch.content_length));
    cr_assert_eq(qbatch_walk_next(&walk, true, &view), Q_OK);
    cr_assert_eq(view.property_count, 4);
    cr_assert_eq(qbatch_property_find(&view, q_bytes_from_text("color"), &value), Q_OK);
    cr_assert(q_bytes_equal(value, q_bytes_from_text("red")));
    cr_assert_eq(qbatch_property_find(&view, q_bytes_from_text("empty"), &value), Q_OK);
    cr_assert_eq(value.size, 0);
    cr_assert_eq(
        qbatch_property_find(&view, q_bytes_from_text(QBATCH_PROPERTY_ORDER_KEY), &value), Q_OK);
    cr_assert(q_bytes_equal(value, q_bytes_from_text("user-1")));
    cr_assert_eq(qbatch_property_find(&view, q_bytes_from_text("colo"), &value), Q_NOT_FOUND);
    made_batch_free(&made);
    qbatch_builder_free(builder);
}

/* Whether a message passes, decided from its tags as they were given. */
static bool
passes(const struct qbatch_filter *filter, const struct qbatch_message *message)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < filter->tag_count; i++) {
        bool has = false;
        for (uint32_t j = 0; j < message->tag_count; j++)
            has |= q_bytes_equal(filter->tags[i], message->tags[j]);
        found += has;
    }
    if (filter->tag_count == 0) return true;
    return filter->mode == QBATCH_TAGS_ANY ? found > 0 : found == filter->tag_count;
}

/* Filters by bitmap answer what comparing the tags themselves answers. */
Test(batch_walk, filters_against_comparing)
{
    enum {
        MESSAGES = 12
    };
    static struct made_message sent[MESSAGES];
    struct random_source random = random_from_seed(33);
    struct qbatch_builder *builder = make_builder(false);
    for (int round = 0; round < 300; round++) {
        for (int i = 0; i < MESSAGES; i++) {
            make_message(&random, 6, false, &sent[i]);
            cr_assert_eq(qbatch_builder_add(builder, &sent[i].message), Q_OK);
        }
        struct made_batch made = make_batch(builder);
        struct qbatch batch = made_batch_open(&made);
        struct made_message words;
        make_message(&random, 8, false, &words);
        struct qbatch_filter filter = {
            .tag_count = words.message.tag_count,
            .mode = random_below(&random, 2) ? QBATCH_TAGS_ANY : QBATCH_TAGS_ALL,
        };
        memcpy(filter.tags, words.tags, sizeof(filter.tags));

        struct qbatch_mask mask = qbatch_filter_mask(&batch, &filter);
        for (uint32_t i = 0; i < MESSAGES; i++) {
            struct qbatch_entry entry;
            qbatch_entry_at(&batch, i, &entry);
            cr_assert_eq(qbatch_mask_passes(&mask, entry.tags), passes(&filter, &sent[i].message));
        }
        made_batch_free(&made);
    }
    qbatch_builder_free(builder);
}
