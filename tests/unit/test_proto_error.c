/*
 * An error is the same object on both sides of the wire; names have limits.
 */
#include <criterion/criterion.h>

#include <qproto/message.h>

static struct q_bytes
pack(const ProtobufCMessage *message, uint8_t *out)
{
    return q_bytes_from(out, protobuf_c_message_pack(message, out));
}

Test(proto_error, fault_crosses_the_wire)
{
    uint8_t packed[4096];
    struct qproto_error error;

    enum q_err err =
        Q_FAIL(Q_E_NO_SPACE, .path = "/data/seg", .what = "4096 bytes wanted", .hint = "free some");
    qproto_error_fill(&error, err, q_fault_last());
    cr_assert_eq(error.header.code, Q_E_NO_SPACE);
    cr_assert_str_eq(error.header.name, "E_NO_SPACE");
    cr_assert_not(error.header.retryable);
    struct q_bytes header = pack(&error.header.base, packed);

    (void)Q_FAIL(Q_E_IO, .what = "something else");
    cr_assert_eq(qproto_error_read(header), Q_E_NO_SPACE);
    cr_assert_eq(q_fault_last()->err, Q_E_NO_SPACE);
    cr_assert_not_null(strstr(q_fault_last()->what, "4096 bytes wanted"));
    cr_assert_not_null(strstr(q_fault_last()->what, "/data/seg"));
    cr_assert_str_eq(q_fault_last()->hint, "free some");
}

Test(proto_error, a_stale_fault_is_left_aside)
{
    struct qproto_error error;

    (void)Q_FAIL(Q_E_IO, .what = "long ago");
    qproto_error_fill(&error, Q_BUSY, q_fault_last());
    cr_assert_eq(error.header.code, Q_BUSY);
    cr_assert(error.header.retryable);
    cr_assert_str_eq(error.header.message, q_err_message(Q_BUSY));
    cr_assert_str_eq(error.header.hint, q_err_hint(Q_BUSY));
}

Test(proto_error, unknown_and_missing_codes_are_protocol_errors)
{
    uint8_t packed[256];
    Qmq__Wire__Error error = QMQ__WIRE__ERROR__INIT;

    cr_assert_eq(qproto_error_read(pack(&error.base, packed)), Q_E_PROTOCOL);
    error.code = 31000;
    error.name = (char *)"FROM_THE_FUTURE";
    cr_assert_eq(qproto_error_read(pack(&error.base, packed)), Q_E_PROTOCOL);
    cr_assert_not_null(strstr(q_fault_last()->what, "FROM_THE_FUTURE"));
    cr_assert_eq(qproto_error_read(q_bytes_from("\xff\xff", 2)), Q_E_PROTOCOL);
}

Test(proto_error, names)
{
    char long_name[QPROTO_SUBJECT_MAX + 2] = { 0 };
    memset(long_name, 'a', QPROTO_SUBJECT_MAX);

    cr_assert_eq(qproto_check_name("subject", "order.paid_2-x", QPROTO_SUBJECT_MAX), Q_OK);
    cr_assert_eq(qproto_check_name("subject", long_name, QPROTO_SUBJECT_MAX), Q_OK);
    long_name[QPROTO_SUBJECT_MAX] = 'a';
    cr_assert_eq(qproto_check_name("subject", long_name, QPROTO_SUBJECT_MAX), Q_INVALID);
    cr_assert_eq(qproto_check_name("group", "", QPROTO_GROUP_MAX), Q_INVALID);
    cr_assert_eq(qproto_check_name("group", "with space", QPROTO_GROUP_MAX), Q_INVALID);
    cr_assert_eq(qproto_check_name("group", "\xc3\xa4", QPROTO_GROUP_MAX), Q_INVALID);
    cr_assert_eq(qproto_check_name("group", "%RETRY", QPROTO_GROUP_MAX), Q_INVALID);
    cr_assert_not_null(strstr(q_fault_last()->hint, "reserved"));
}
