/*
 * qbatch/build.h: put messages into a batch.
 *
 * A builder collects messages of one subject, and writes them as envelope and payload into memory
 * of the caller (a network message or a frame): one copy of each body when it is added, one when
 * the batch is written.
 *
 * Thread:   one at a time.
 * Blocking: never.
 * Memory:   a builder owns buffers that grow to the largest batch and are kept between batches.
 * Failure:  Q_TOO_BIG with a fault that names the limit and the number; Q_E_NOMEM.
 * Format:   qbatch/layout.h.
 */
#ifndef QBATCH_BUILD_H
#define QBATCH_BUILD_H

#include <qbase/bytes.h>
#include <qbase/err.h>
#include <qbatch/layout.h>

struct qbatch_property {
    struct q_bytes key;
    struct q_bytes value;
};

/* A message as a producer gives it. All bytes are copied by qbatch_builder_add(). */
struct qbatch_message {
    struct q_bytes body;
    const struct qbatch_property *properties;
    uint32_t property_count;
    const struct q_bytes *tags;
    uint32_t tag_count;
    const struct q_bytes *keys; /* a message can be found by each */
    uint32_t key_count;
    struct q_bytes order_key; /* size 0: none */
    struct q_bytes only;      /* the one group that is given it; size 0: all */
    uint64_t time_ms;         /* creation */
    uint32_t counter;         /* of the id */
};

struct qbatch_builder;

struct qbatch_builder_options {
    uint32_t messages_max; /* 0: 512 */
    uint32_t bytes_max;    /* content; a larger single message is a batch of its own. 0: 64 KiB */
    bool compress;         /* LZ4 when it saves at least an eighth */
    uint8_t producer_id[16];
};

Q_MUST_CHECK enum q_err qbatch_builder_new(
    const struct qbatch_builder_options *options, struct qbatch_builder **ret_builder);
void qbatch_builder_free(struct qbatch_builder *builder);

/*
 * Add a message.
 *
 * Q_OK      added.
 * Q_AGAIN   the batch is full for it (count, bytes, or tags): write the batch, reset, add again.
 *           An empty builder never answers this.
 * Q_TOO_BIG the message exceeds a limit of qbatch/layout.h. Not added.
 * Q_INVALID an empty tag or key, or one with a NUL byte; a tag, or a property's name, that begins
 *           with '%'.
 *           Not added.
 */
Q_MUST_CHECK enum q_err qbatch_builder_add(
    struct qbatch_builder *builder, const struct qbatch_message *message);

uint32_t qbatch_builder_count(const struct qbatch_builder *builder);
uint32_t qbatch_builder_content_bytes(const struct qbatch_builder *builder);

struct qbatch_request_place {
    uint64_t request_sequence;
    uint32_t request_index;
    uint32_t request_count;
    uint64_t due_ms; /* 0: at once; else the batch is for a delay store */
};

/*
 * Close the batch: compress it if that pays, compute its size. After this only _write() and
 * _reset() may be called. The builder is not empty.
 */
Q_MUST_CHECK enum q_err qbatch_builder_close(
    struct qbatch_builder *builder, uint32_t *ret_envelope_size, uint32_t *ret_payload_size);
/*
 * Write the closed batch: envelope and padded payload, of exactly the sizes that _close() told
 * (both multiples of 8). The broker's prefix is zero.
 */
void qbatch_builder_write(
    struct qbatch_builder *builder,
    const struct qbatch_request_place *place,
    uint8_t *envelope,
    uint8_t *payload);
/* Empty the builder; keeps its memory. */
void qbatch_builder_reset(struct qbatch_builder *builder);

#endif /* QBATCH_BUILD_H */
