/*
 * batch_maker.c: random messages, and batches in memory of exactly their size.
 */
#include "batch_maker.h"

#include <stdio.h>

#include <xxhash.h>

#include <qbase/assert.h>

static const uint8_t producer_id[16] = {
    0x9f, 0x3c, 0x01, 0xab, 0x22, 0xcd, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
};

static struct q_bytes make_word(struct made_message *out, const char *kind, uint32_t number);
static void fill_body(struct random_source *random, bool squeezable, struct made_message *out);

void
make_message(
    struct random_source *random, uint32_t tag_kinds, bool squeezable, struct made_message *out)
{
    *out = (struct made_message){ 0 };
    struct qbatch_message *message = &out->message;
    fill_body(random, squeezable, out);

    message->properties = out->properties;
    message->property_count = random_below(random, MAKER_PROPERTIES_MAX + 1);
    for (uint32_t i = 0; i < message->property_count; i++) {
        out->properties[i].key = make_word(out, "name", i);
        /* Empty values are values. */
        if (random_below(random, 4) > 0)
            out->properties[i].value = make_word(out, "value", random_below(random, 1000));
    }
    message->tags = out->tags;
    message->tag_count = random_below(random, tag_kinds > 0 ? 5 : 1);
    for (uint32_t i = 0; i < message->tag_count; i++)
        out->tags[i] = make_word(out, "tag", random_below(random, tag_kinds));
    message->keys = out->keys;
    message->key_count = random_below(random, 3);
    for (uint32_t i = 0; i < message->key_count; i++)
        out->keys[i] = make_word(out, "key", random_below(random, 1000000));
    if (random_below(random, 2) == 0)
        message->order_key = make_word(out, "user", random_below(random, 100));
    message->time_ms = UINT64_C(1768104902113) + random_below(random, 100000);
    message->counter = (uint32_t)random_u64(random);
}

static void
fill_body(struct random_source *random, bool squeezable, struct made_message *out)
{
    uint32_t size = random_below(random, MAKER_BODY_MAX + 1);
    for (uint32_t i = 0; i < size; i++)
        out->body[i] = (uint8_t)(squeezable ? i / 32 : random_below(random, 256));
    out->message.body = q_bytes_from(size > 0 ? out->body : NULL, size);
}

static struct q_bytes
make_word(struct made_message *out, const char *kind, uint32_t number)
{
    char *word = (char *)out->words[out->word_count++];
    int length = snprintf(word, MAKER_WORD_SIZE, "%s-%u", kind, number);
    Q_ASSERT(length < MAKER_WORD_SIZE);
    return q_bytes_from(word, (size_t)length);
}

struct qbatch_builder *
make_builder(bool compress)
{
    struct qbatch_builder *builder = NULL;
    struct qbatch_builder_options options = { .compress = compress };
    memcpy(options.producer_id, producer_id, sizeof(producer_id));
    enum q_err err = qbatch_builder_new(&options, &builder);
    Q_ASSERT(err == Q_OK);
    return builder;
}

struct made_batch
make_batch(struct qbatch_builder *builder)
{
    struct made_batch batch;
    enum q_err err = qbatch_builder_close(builder, &batch.envelope_size, &batch.payload_size);
    Q_ASSERT(err == Q_OK);
    batch.envelope = malloc(batch.envelope_size);
    batch.payload = malloc(batch.payload_size);
    Q_ASSERT(batch.envelope != NULL);
    Q_ASSERT(batch.payload != NULL);
    /* Whatever is not written shall be seen. */
    memset(batch.envelope, 0xEE, batch.envelope_size);
    memset(batch.payload, 0xEE, batch.payload_size);
    struct qbatch_request_place place = {
        .request_sequence = 77,
        .request_index = 2,
        .request_count = 5,
    };
    qbatch_builder_write(builder, &place, batch.envelope, batch.payload);
    qbatch_builder_reset(builder);
    return batch;
}

struct made_batch
make_random_batch(uint64_t seed, uint32_t count, bool compress)
{
    struct random_source random = random_from_seed(seed);
    struct qbatch_builder *builder = make_builder(compress);
    for (uint32_t i = 0; i < count; i++) {
        struct made_message made;
        make_message(&random, 20, compress, &made);
        enum q_err err = qbatch_builder_add(builder, &made.message);
        Q_ASSERT(err == Q_OK);
    }
    struct made_batch batch = make_batch(builder);
    qbatch_builder_free(builder);
    return batch;
}

void
made_batch_free(struct made_batch *batch)
{
    free(batch->envelope);
    free(batch->payload);
}

void
made_batch_rehash(struct made_batch *batch)
{
    uint64_t hash =
        XXH3_64bits(batch->envelope + QBATCH_MAGIC, batch->envelope_size - QBATCH_MAGIC);
    q_store_le64(batch->envelope + QBATCH_ENVELOPE_HASH, hash);
}

struct qbatch
made_batch_open(const struct made_batch *batch)
{
    struct qbatch opened;
    enum q_err err = qbatch_open(q_bytes_from(batch->envelope, batch->envelope_size), &opened);
    Q_ASSERT(err == Q_OK);
    return opened;
}
