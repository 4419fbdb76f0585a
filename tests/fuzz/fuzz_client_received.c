/*
 * Answers to a pull from a stranger: any header over three stored batches. What is accepted can be
 * read to its last byte, and moves `received` forward only.
 *
 * Input: one byte, whose low bit says whether the right length of the envelopes is added, and the
 * rest where `received` begins; then the header.
 */
#include <stdlib.h>

#include <qbase/assert.h>
#include <qbatch/build.h>

#include "consumer.h"

enum {
    BATCHES = 3,
    PER_BATCH = 4,
    PARTS_MAX = 4096,
    HEADER_MAX = 4096
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void make_payload(uint8_t *out, uint32_t *ret_envelopes, uint32_t *ret_size);
static void make_batch(unsigned number, uint8_t *envelope, uint8_t *payload, uint32_t *sizes);
static struct qnet_buffer *make_answer(struct q_bytes header);
static void read_all(const struct qmq_batch *batch);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || size > HEADER_MAX) return 0;

    uint64_t received = data[0] >> 1;
    uint64_t before = received;
    uint8_t header[HEADER_MAX + 8];
    size_t header_size = size - 1;
    memcpy(header, data + 1, header_size);

    uint8_t payload[PARTS_MAX];
    uint32_t envelopes;
    uint32_t payload_size;
    make_payload(payload, &envelopes, &payload_size);
    if (data[0] & 1) {
        Q_ASSERT(envelopes >= 128 && envelopes < 128 * 128);
        header[header_size++] = 2 << 3;
        header[header_size++] = (uint8_t)(envelopes | 0x80);
        header[header_size++] = (uint8_t)(envelopes >> 7);
    }

    struct qnet_buffer *buffer = make_answer(q_bytes_from(header, header_size));
    struct answer answer;
    if (answer_open(&answer, buffer, QPROTO_PULL) != Q_OK) return 0;
    answer.payload = q_bytes_from(payload, payload_size);

    struct qmq_batch *batch = NULL;
    enum q_err err = received_open(&answer, 0, &received, &batch);
    Q_ASSERT(received >= before);
    Q_ASSERT(err == Q_OK || !batch);
    if (batch) read_all(batch);
    qmq_batch_free(batch);
    answer_close(&answer);
    return 0;
}

static struct qnet_buffer *
make_answer(struct q_bytes header)
{
    Qmq__Wire__Empty empty = QMQ__WIRE__EMPTY__INIT;
    struct qnet_buffer *buffer;
    enum q_err err = qnet_buffer_new(QPROTO_HEAD_SIZE + header.size, &buffer);
    Q_ASSERT(err == Q_OK);
    uint8_t *out = qnet_buffer_data(buffer);
    qproto_write(out, QPROTO_PULL, 0, &empty.base, 0);
    q_store_le32(out + 8, (uint32_t)header.size);
    q_store_le32(out + 12, (uint32_t)(QPROTO_HEAD_SIZE + header.size));
    if (header.size > 0) memcpy(out + QPROTO_HEAD_SIZE, header.data, header.size);
    return buffer;
}

/* Batches of sequences 0…3, 4…7 and, compressed, 10…13. */
static void
make_payload(uint8_t *out, uint32_t *ret_envelopes, uint32_t *ret_size)
{
    uint8_t payloads[PARTS_MAX];
    uint32_t envelopes_size = 0;
    uint32_t payloads_size = 0;

    for (unsigned number = 0; number < BATCHES; number++) {
        uint32_t sizes[2];
        make_batch(number, out + envelopes_size, payloads + payloads_size, sizes);
        envelopes_size += sizes[0];
        payloads_size += sizes[1];
    }
    Q_ASSERT(envelopes_size + payloads_size <= PARTS_MAX);
    memcpy(out + envelopes_size, payloads, payloads_size);
    *ret_envelopes = envelopes_size;
    *ret_size = envelopes_size + payloads_size;
}

static void
make_batch(unsigned number, uint8_t *envelope, uint8_t *payload, uint32_t *sizes)
{
    static const uint8_t body[100];
    struct q_bytes tag = q_bytes_from_text("tag");
    struct qbatch_property property = { q_bytes_from_text("key"), q_bytes_from_text("value") };
    struct qbatch_builder_options options = { .compress = number == BATCHES - 1 };
    struct qbatch_builder *builder;
    enum q_err err = qbatch_builder_new(&options, &builder);
    Q_ASSERT(err == Q_OK);
    for (unsigned index = 0; index < PER_BATCH; index++) {
        struct qbatch_message message = {
            .body = q_bytes_from(body, sizeof(body) - index),
            .tags = &tag,
            .tag_count = index % 2,
            .properties = &property,
            .property_count = index / 2,
        };
        err = qbatch_builder_add(builder, &message);
        Q_ASSERT(err == Q_OK);
    }
    err = qbatch_builder_close(builder, &sizes[0], &sizes[1]);
    Q_ASSERT(err == Q_OK);
    struct qbatch_request_place place = { .request_count = 1 };
    qbatch_builder_write(builder, &place, envelope, payload);
    qbatch_set_prefix(envelope, 1, number < 2 ? number * PER_BATCH : 10, 1);
    qbatch_builder_free(builder);
}

static void
read_all(const struct qmq_batch *batch)
{
    volatile uint64_t sum = 0;

    Q_ASSERT(qmq_batch_count(batch) > 0);
    for (size_t index = 0; index < qmq_batch_count(batch); index++) {
        const struct qmq_message *message = qmq_batch_message(batch, index);
        const uint8_t *body = message->body.data;
        struct qmq_bytes value;
        for (size_t at = 0; at < message->body.size; at++)
            sum += body[at];
        if (qmq_message_property(message, "key", &value)) sum += value.size;
        if (qmq_message_tag(message, 0, &value)) sum += value.size;
    }
}
