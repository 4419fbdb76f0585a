/*
 * batch_maker.h: random messages, and batches in memory of exactly their size.
 *
 * Exact sizes let AddressSanitizer see every read beyond an end.
 */
#ifndef TESTS_UNIT_BATCH_MAKER_H
#define TESTS_UNIT_BATCH_MAKER_H

#include <qbatch/batch.h>
#include <qbatch/build.h>

#include "random.h"

enum {
    MAKER_PROPERTIES_MAX = 4,
    MAKER_WORD_SIZE = 16,
    MAKER_BODY_MAX = 300
};

/* A message with the memory of all its parts. */
struct made_message {
    struct qbatch_message message;
    struct qbatch_property properties[MAKER_PROPERTIES_MAX];
    struct q_bytes tags[QBATCH_TAGS_MAX];
    struct q_bytes keys[QBATCH_KEYS_MAX];
    uint8_t words[64][MAKER_WORD_SIZE];
    uint32_t word_count;
    uint8_t body[MAKER_BODY_MAX];
};

struct made_batch {
    uint8_t *envelope;
    uint32_t envelope_size;
    uint8_t *payload;
    uint32_t payload_size;
};

/* `tag_kinds`: how many different tags there are. `squeezable`: bodies that LZ4 makes smaller. */
void make_message(
    struct random_source *random, uint32_t tag_kinds, bool squeezable, struct made_message *out);
struct qbatch_builder *make_builder(bool compress);
/* Close the builder, write the batch, reset the builder. */
struct made_batch make_batch(struct qbatch_builder *builder);
/* A batch of `count` random messages with everything a message can have. */
struct made_batch make_random_batch(uint64_t seed, uint32_t count, bool compress);
void made_batch_free(struct made_batch *batch);
/* Make the envelope's hash right again after a change. */
void made_batch_rehash(struct made_batch *batch);
/* Open the envelope; the test ends when that fails. */
struct qbatch made_batch_open(const struct made_batch *batch);

#endif /* TESTS_UNIT_BATCH_MAKER_H */
