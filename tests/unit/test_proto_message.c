/*
 * Messages on the wire: what is written is read back, and what is damaged is refused by name.
 */
#include <criterion/criterion.h>

#include <stdio.h>

#include <qproto/message.h>

enum {
    BUFFER_SIZE = 4096
};

/* An ack with one range and this payload, written into `buffer`. */
static size_t
write_ack(uint8_t *buffer, const char *subject, const char *payload)
{
    Qmq__Wire__Range range = QMQ__WIRE__RANGE__INIT;
    range.first = 7;
    range.last = 9;
    Qmq__Wire__Range *ranges[] = { &range };
    Qmq__Wire__AckRequest ack = QMQ__WIRE__ACK_REQUEST__INIT;
    ack.subject = (char *)subject;
    ack.ranges = ranges;
    ack.n_ranges = 1;

    size_t payload_size = strlen(payload);
    size_t size = qproto_size(&ack.base, payload_size);
    cr_assert_leq(size, BUFFER_SIZE);
    memset(buffer, 0xee, BUFFER_SIZE);
    uint8_t *to = qproto_write(buffer, QPROTO_ACK, 0, &ack.base, payload_size);
    memcpy(to, payload, payload_size);
    cr_assert_eq(to + payload_size, buffer + size);
    cr_assert_eq(buffer[size], 0xee);
    return size;
}

Test(proto_message, comes_back_as_written)
{
    uint8_t buffer[BUFFER_SIZE];
    struct qproto_arena arena;
    qproto_arena_init(&arena);

    /* Every length of subject, so that every amount of padding occurs. */
    for (size_t length = 1; length < 20; length++) {
        char subject[32] = { 0 };
        memset(subject, 's', length);
        size_t size = write_ack(buffer, subject, "payload");

        struct qproto_message message;
        cr_assert_eq(qproto_parse(q_bytes_from(buffer, size), &message), Q_OK);
        cr_assert_eq(message.op, QPROTO_ACK);
        cr_assert_eq(message.status, 0);
        cr_assert(q_bytes_equal(message.payload, q_bytes_from_text("payload")));
        cr_assert_eq((message.payload.data - buffer) % 8, 4);

        Qmq__Wire__AckRequest *ack = NULL;
        cr_assert_eq(QPROTO_UNPACK(message.header, ack_request, &arena, &ack), Q_OK);
        cr_assert_str_eq(ack->subject, subject);
        cr_assert_str_eq(ack->group, "");
        cr_assert_eq(ack->n_ranges, 1);
        cr_assert_eq(ack->ranges[0]->last, 9);
        qproto_arena_reset(&arena);
    }
}

Test(proto_message, without_payload_ends_after_the_header)
{
    uint8_t buffer[BUFFER_SIZE];
    size_t size = write_ack(buffer, "abc", "");

    struct qproto_message message;
    cr_assert_eq(qproto_parse(q_bytes_from(buffer, size), &message), Q_OK);
    cr_assert_eq(message.payload.size, 0);
    cr_assert_eq(message.header.size, size - QPROTO_HEAD_SIZE);
}

struct damage {
    const char *name;
    size_t at;
    uint8_t value;
};

Test(proto_message, damaged_head_is_refused)
{
    static const struct damage damages[] = {
        { "magic", 0, 'R' },
        { "version", 1, 1 },
        { "flags", 4, 1 },
        { "header length", 8, 200 },
        { "header length", 10, 255 },
        { "payload start before the header's end", 12, 17 },
        { "payload start behind the end", 13, 99 },
        { "payload start odd", 12, 45 },
    };
    uint8_t buffer[BUFFER_SIZE];
    struct qproto_message message;

    for (size_t index = 0; index < sizeof(damages) / sizeof(damages[0]); index++) {
        size_t size = write_ack(buffer, "subject", "payload");
        buffer[damages[index].at] = damages[index].value;
        cr_assert_eq(
            qproto_parse(q_bytes_from(buffer, size), &message), Q_E_PROTOCOL, "%s",
            damages[index].name);
        cr_assert_neq(q_fault_last()->what[0], '\0');
    }
}

Test(proto_message, every_cut_is_refused_or_harmless)
{
    uint8_t buffer[BUFFER_SIZE];
    size_t size = write_ack(buffer, "subject", "payload");
    struct qproto_message message;

    for (size_t cut = 0; cut < size - strlen("payload"); cut++)
        cr_assert_eq(qproto_parse(q_bytes_from(buffer, cut), &message), Q_E_PROTOCOL, "%zu", cut);
}

Test(proto_message, padding_must_be_zero)
{
    uint8_t buffer[BUFFER_SIZE];
    struct qproto_message message;
    unsigned seen = 0;

    for (size_t length = 1; length < 9; length++) {
        char subject[16] = { 0 };
        memset(subject, 's', length);
        size_t size = write_ack(buffer, subject, "payload");
        uint32_t start = q_load_le32(buffer + 12);
        if (start == QPROTO_HEAD_SIZE + q_load_le32(buffer + 8)) continue;
        buffer[start - 1] = 1;
        cr_assert_eq(qproto_parse(q_bytes_from(buffer, size), &message), Q_E_PROTOCOL);
        seen++;
    }
    cr_assert_eq(seen, 7);
}

Test(proto_message, repeated_fields_are_limited)
{
    static uint8_t header[2 * (QPROTO_REPEATED_MAX + 1)];
    struct qproto_arena arena;
    qproto_arena_init(&arena);

    /* Field 5 of AckRequest, empty, again and again. */
    for (size_t at = 0; at < sizeof(header); at += 2) {
        header[at] = 5 << 3 | 2;
        header[at + 1] = 0;
    }
    Qmq__Wire__AckRequest *ack = NULL;
    cr_assert_eq(
        QPROTO_UNPACK(q_bytes_from(header, sizeof(header)), ack_request, &arena, &ack),
        Q_E_PROTOCOL);
    qproto_arena_reset(&arena);
    cr_assert_eq(
        QPROTO_UNPACK(q_bytes_from(header, sizeof(header) - 2), ack_request, &arena, &ack), Q_OK);
    cr_assert_eq(ack->n_ranges, QPROTO_REPEATED_MAX);
    cr_assert_gt(arena.spilled_bytes, 0);
    qproto_arena_reset(&arena);
    cr_assert_null(arena.spilled);
}

Test(proto_message, unpacked_size_is_limited)
{
    static uint8_t header[QPROTO_HEADER_MAX];
    struct qproto_arena arena;
    qproto_arena_init(&arena);

    /* Two bytes on the wire, more than 50 in memory. */
    for (size_t at = 0; at < sizeof(header); at += 2) {
        header[at] = 1 << 3 | 2;
        header[at + 1] = 0;
    }
    Qmq__Wire__PullAnswer *pull = NULL;
    cr_assert_eq(
        QPROTO_UNPACK(q_bytes_from(header, sizeof(header)), pull_answer, &arena, &pull),
        Q_E_PROTOCOL);
    cr_assert_leq(arena.spilled_bytes, QPROTO_ARENA_MAX);
    qproto_arena_reset(&arena);
}

Test(proto_message, texts_are_limited)
{
    static uint8_t header[QPROTO_TEXT_MAX + 4] = { 1 << 3 | 2, 0x81, 0x08 };
    struct qproto_arena arena;
    qproto_arena_init(&arena);
    memset(header + 3, 'x', QPROTO_TEXT_MAX + 1);

    Qmq__Wire__RouteRequest *route = NULL;
    cr_assert_eq(
        QPROTO_UNPACK(q_bytes_from(header, sizeof(header)), route_request, &arena, &route),
        Q_E_PROTOCOL);
    qproto_arena_reset(&arena);
}

Test(proto_message, every_operation_has_a_name_and_two_shapes)
{
    static const unsigned known[] = {
#define OP_NUMBER(name, number, request, answer, role) (number),
        QPROTO_OPS(OP_NUMBER)
#undef OP_NUMBER
    };

    for (size_t index = 0; index < sizeof(known) / sizeof(known[0]); index++) {
        cr_assert_str_neq(qproto_op_name(known[index]), "UNKNOWN");
        cr_assert_not_null(qproto_request_descriptor(known[index]));
        cr_assert_not_null(qproto_answer_descriptor(known[index]));
    }
    cr_assert_str_eq(qproto_op_name(QPROTO_META_ROUTE), "META_ROUTE");
    cr_assert_str_eq(qproto_op_name(9999), "UNKNOWN");
    cr_assert_null(qproto_request_descriptor(0));
}

Test(proto_message, subjects_of_dead_letters)
{
    char routed[QPROTO_SUBJECT_MAX + 1];
    cr_expect_eq(qproto_check_read_subject("orders"), Q_OK);
    cr_expect_eq(qproto_check_read_subject("%DEAD_RETRY%orders%billing"), Q_OK);
    cr_expect_str_eq(qproto_routed_subject("%DEAD_RETRY%orders%billing", routed), "orders");
    cr_expect_str_eq(qproto_routed_subject("orders", routed), "orders");
    static const char *const wrong[] = {
        "",
        "%",
        "%orders",
        "%DEAD_RETRY%",
        "%DEAD_RETRY%orders",
        "%DEAD_RETRY%orders%",
        "%DEAD_RETRY%%billing",
        "%DEAD_RETRY%orders%billing%more",
        "%DEAD_RETRY%or ders%billing",
    };
    for (size_t index = 0; index < sizeof(wrong) / sizeof(wrong[0]); index++)
        cr_expect_eq(qproto_check_read_subject(wrong[index]), Q_INVALID, "%s", wrong[index]);
    /* As long as they may be, and one more. */
    char longest[QPROTO_READ_SUBJECT_MAX + 1];
    int size = snprintf(
        longest, sizeof(longest), "%%DEAD_RETRY%%%0*d%%%0*d", QPROTO_SUBJECT_MAX, 0,
        QPROTO_GROUP_MAX, 0);
    cr_assert_lt((size_t)size, sizeof(longest));
    cr_expect_eq(qproto_check_read_subject(longest), Q_OK);
    memcpy(longest + size, "0", 2);
    cr_expect_eq(qproto_check_read_subject(longest), Q_INVALID);
}
