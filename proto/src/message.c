/*
 * message.c: cut a message up, put one together, unpack its header within limits.
 */
#include <qbase/assert.h>
#include <qproto/message.h>

enum {
    AT_MAGIC = 0,
    AT_VERSION = 1,
    AT_OP = 2,
    AT_FLAGS = 4,
    AT_STATUS = 6,
    AT_HEADER_LENGTH = 8,
    AT_PAYLOAD_START = 12,

    MAGIC = 'Q',
    PAYLOAD_PHASE = 4, /* of the payload start, modulo 8: half of it, so + and - are alike */
    PADDING_MAX = 7,
};

static enum q_err bad(const char *what, uint64_t value, uint64_t limit);
static size_t payload_start(size_t header_size, size_t payload_size);
static enum q_err check_limits(const ProtobufCMessage *message);
static enum q_err check_field(
    const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field);
static size_t element_size(ProtobufCType type);
static enum q_err check_element(const ProtobufCFieldDescriptor *field, const void *element);

enum q_err
qproto_parse(struct q_bytes bytes, struct qproto_message *ret_message)
{
    const uint8_t *head = bytes.data;

    if (bytes.size < QPROTO_HEAD_SIZE) return bad("bytes in all", bytes.size, QPROTO_HEAD_SIZE);
    if (bytes.size > UINT32_MAX) return bad("bytes in all", bytes.size, UINT32_MAX);
    if (head[AT_MAGIC] != MAGIC) return bad("first byte", head[AT_MAGIC], MAGIC);
    if (head[AT_VERSION] != QPROTO_VERSION)
        return bad("head version", head[AT_VERSION], QPROTO_VERSION);
    if (q_load_le16(head + AT_FLAGS) != 0) return bad("flags", q_load_le16(head + AT_FLAGS), 0);

    uint32_t header_length = q_load_le32(head + AT_HEADER_LENGTH);
    uint32_t start = q_load_le32(head + AT_PAYLOAD_START);
    if (header_length > QPROTO_HEADER_MAX)
        return bad("header length", header_length, QPROTO_HEADER_MAX);
    if (header_length > bytes.size - QPROTO_HEAD_SIZE)
        return bad("header length", header_length, bytes.size - QPROTO_HEAD_SIZE);
    uint32_t header_end = QPROTO_HEAD_SIZE + header_length;
    if (start < header_end) return bad("payload start", start, header_end);
    if (start > bytes.size) return bad("payload start", start, bytes.size);
    if (start - header_end > PADDING_MAX) return bad("padding", start - header_end, PADDING_MAX);
    if (!q_is_zero(head + header_end, start - header_end))
        return Q_FAIL(Q_E_PROTOCOL, .what = "the padding before the payload is not zero");
    if (start < bytes.size && start % 8 != PAYLOAD_PHASE)
        return bad("payload start modulo 8", start % 8, PAYLOAD_PHASE);

    *ret_message = (struct qproto_message){
        .op = q_load_le16(head + AT_OP),
        .status = (int16_t)q_load_le16(head + AT_STATUS),
        .header = q_bytes_from(head + QPROTO_HEAD_SIZE, header_length),
        .payload = q_bytes_from(head + start, bytes.size - start),
    };
    return Q_OK;
}

static enum q_err
bad(const char *what, uint64_t value, uint64_t limit)
{
    return Q_FAIL(
        Q_E_PROTOCOL, .what = q_text(
                          "%s: %llu where %llu is the limit or expected", what,
                          (unsigned long long)value, (unsigned long long)limit));
}

size_t
qproto_size(const ProtobufCMessage *header, size_t payload_size)
{
    return payload_start(protobuf_c_message_get_packed_size(header), payload_size) + payload_size;
}

uint8_t *
qproto_write(
    uint8_t *out, unsigned op, int status, const ProtobufCMessage *header, size_t payload_size)
{
    size_t header_size = protobuf_c_message_pack(header, out + QPROTO_HEAD_SIZE);
    size_t header_end = QPROTO_HEAD_SIZE + header_size;
    size_t start = payload_start(header_size, payload_size);
    Q_ASSERT(header_size <= QPROTO_HEADER_MAX);
    Q_ASSERT(op <= UINT16_MAX);
    Q_ASSERT(status >= INT16_MIN && status <= INT16_MAX);

    out[AT_MAGIC] = MAGIC;
    out[AT_VERSION] = QPROTO_VERSION;
    q_store_le16(out + AT_OP, (uint16_t)op);
    q_store_le16(out + AT_FLAGS, 0);
    q_store_le16(out + AT_STATUS, (uint16_t)status);
    q_store_le32(out + AT_HEADER_LENGTH, (uint32_t)header_size);
    q_store_le32(out + AT_PAYLOAD_START, (uint32_t)start);
    memset(out + header_end, 0, start - header_end);
    return out + start;
}

static size_t
payload_start(size_t header_size, size_t payload_size)
{
    size_t header_end = QPROTO_HEAD_SIZE + header_size;
    if (payload_size == 0) return header_end;
    return (size_t)q_align_up(header_end + PAYLOAD_PHASE, 8) - PAYLOAD_PHASE;
}

enum q_err
qproto_unpack(
    struct q_bytes header,
    const ProtobufCMessageDescriptor *descriptor,
    struct qproto_arena *arena,
    ProtobufCMessage **ret_message)
{
    if (header.size > QPROTO_HEADER_MAX)
        return bad("header length", header.size, QPROTO_HEADER_MAX);

    ProtobufCMessage *message =
        protobuf_c_message_unpack(descriptor, &arena->allocator, header.size, header.data);
    if (!message)
        return Q_FAIL(
            Q_E_PROTOCOL, .what = q_text(
                              "%zu bytes are no %s, or one of more than %d bytes", header.size,
                              descriptor->short_name, QPROTO_ARENA_MAX));

    Q_TRY(check_limits(message));
    *ret_message = message;
    return Q_OK;
}

/* The schema nests two levels at most, so this recursion ends soon. */
static enum q_err
check_limits(const ProtobufCMessage *message)
{
    for (unsigned index = 0; index < message->descriptor->n_fields; index++)
        Q_TRY(check_field(message, &message->descriptor->fields[index]));
    return Q_OK;
}

static enum q_err
check_field(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
    const uint8_t *member = (const uint8_t *)message + field->offset;
    if (field->label != PROTOBUF_C_LABEL_REPEATED) return check_element(field, member);

    size_t count;
    memcpy(&count, (const uint8_t *)message + field->quantifier_offset, sizeof(count));
    if (count > QPROTO_REPEATED_MAX) return bad(field->name, count, QPROTO_REPEATED_MAX);

    size_t size = element_size(field->type);
    if (size == 0) return Q_OK;
    const uint8_t *elements;
    memcpy(&elements, member, sizeof(elements));
    for (size_t index = 0; index < count; index++)
        Q_TRY(check_element(field, elements + index * size));
    return Q_OK;
}

/* Of what has a length to check; 0: numbers, which have none. */
static size_t
element_size(ProtobufCType type)
{
    return type == PROTOBUF_C_TYPE_STRING || type == PROTOBUF_C_TYPE_MESSAGE ? sizeof(void *) : 0;
}

static enum q_err
check_element(const ProtobufCFieldDescriptor *field, const void *element)
{
    const void *pointer;

    if (element_size(field->type) == 0) return Q_OK;
    memcpy(&pointer, element, sizeof(pointer));
    if (!pointer) return Q_OK;
    if (field->type == PROTOBUF_C_TYPE_MESSAGE) return check_limits(pointer);

    size_t length = strlen(pointer);
    return length <= QPROTO_TEXT_MAX ? Q_OK : bad(field->name, length, QPROTO_TEXT_MAX);
}
