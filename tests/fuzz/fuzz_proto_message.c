/*
 * Messages from strangers: cut up, unpacked by their operation as request, answer and error, and
 * packed again. Nothing may be read outside, and what was accepted must come back the same.
 */
#include <stdlib.h>

#include <qbase/assert.h>
#include <qproto/message.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_round_trip(const struct qproto_message *message, const ProtobufCMessage *header);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct qproto_message message;
    if (qproto_parse(q_bytes_from(data, size), &message) != Q_OK) return 0;

    const ProtobufCMessageDescriptor *shapes[] = {
        qproto_request_descriptor(message.op),
        qproto_answer_descriptor(message.op),
    };
    struct qproto_arena arena;
    qproto_arena_init(&arena);
    for (size_t index = 0; index < sizeof(shapes) / sizeof(shapes[0]); index++) {
        ProtobufCMessage *header;
        if (!shapes[index]) continue;
        if (qproto_unpack(message.header, shapes[index], &arena, &header) == Q_OK)
            check_round_trip(&message, header);
        qproto_arena_reset(&arena);
    }
    Q_ASSERT(qproto_error_read(message.header) != Q_OK);
    return 0;
}

static void
check_round_trip(const struct qproto_message *message, const ProtobufCMessage *header)
{
    size_t size = qproto_size(header, message->payload.size);
    /* Defaults spelt out and numbers in long form are packed shorter, never longer than allowed. */
    if (protobuf_c_message_get_packed_size(header) > QPROTO_HEADER_MAX) return;

    uint8_t *out = malloc(size);
    if (!out) return;
    uint8_t *payload =
        qproto_write(out, message->op, message->status, header, message->payload.size);
    if (message->payload.size > 0) memcpy(payload, message->payload.data, message->payload.size);

    struct qproto_message again;
    Q_ASSERT(qproto_parse(q_bytes_from(out, size), &again) == Q_OK);
    Q_ASSERT(again.op == message->op);
    Q_ASSERT(again.status == message->status);
    Q_ASSERT(q_bytes_equal(again.payload, message->payload));
    free(out);
}
