/*
 * test_delay_calls.c: a delay group as its clients see it. Meta is away all the time.
 */
#include <delay/delay.h>

#include <qbatch/build.h>

#include <common/log.h>

#include "test_servers_common.h"

static struct delay *delay;
static struct qnet_caller *caller;

static void
set_up(void)
{
    static char directory[100];
    srv_log_set_level(SRV_ERROR);
    test_directory_make();
    (void)snprintf(directory, sizeof(directory), "%s/delay", test_directory);
    const struct delay_options options = {
        .directory = directory,
        .url = "tcp://127.0.0.1:0",
        .meta_url = "inproc://nobody",
        .node_id = "n0",
        .cluster = "default",
        .delay_group = "d",
        .program = "test 0",
        .version = "0",
        .roles = "delay",
        .store.log = { .create = true, .segment_bytes = 1024 * 1024 },
    };
    cr_assert_eq(delay_start(&options, &delay), Q_OK, "%s", q_fault_last()->what);
    caller = test_connect(delay_url(delay));
}

static void
tear_down(void)
{
    qnet_caller_free(caller);
    cr_assert_eq(delay_stop(delay), Q_OK);
    test_directory_remove();
}

TestSuite(delay_calls, .init = set_up, .fini = tear_down, .timeout = 120);

/* One message, due in an hour. */
static enum q_err
publish(const char *order_key)
{
    struct qbatch_builder_options options = { .messages_max = 0 };
    struct qbatch_builder *builder;
    cr_assert_eq(qbatch_builder_new(&options, &builder), Q_OK);
    const struct qbatch_message message = {
        .body = q_bytes_from_text("later"),
        .order_key = q_bytes_from_text(order_key),
        .time_ms = 1000000,
    };
    cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    uint32_t envelope_size;
    uint32_t payload_size;
    cr_assert_eq(qbatch_builder_close(builder, &envelope_size, &payload_size), Q_OK);
    const struct qbatch_request_place place = {
        .request_sequence = 1,
        .request_count = 1,
        .due_ms = q_clock_wall_ms(q_clock_system()) + 3600 * 1000,
    };
    uint8_t *data = malloc(envelope_size + payload_size);
    qbatch_builder_write(builder, &place, data, data + envelope_size);
    qbatch_builder_free(builder);

    const char *subject = "orders";
    Qmq__Wire__PublishRequest request = QMQ__WIRE__PUBLISH_REQUEST__INIT;
    request.n_subjects = 1;
    request.subjects = (char **)&subject;
    request.envelopes_length = envelope_size;
    struct test_call *call = test_call_begin(
        caller, QPROTO_PUBLISH, &request.base, q_bytes_from(data, envelope_size + payload_size));
    enum q_err err = test_call_wait(call);
    if (err != Q_OK)
        cr_expect_str_eq(
            ((Qmq__Wire__Error *)call->header)->message,
            "a delayed message can't have an order key");
    test_call_free(call);
    free(data);
    return err;
}

/* Clients refuse it before; those that are older don't. */
Test(delay_calls, an_order_key_is_refused)
{
    cr_expect_eq(publish(""), Q_OK);
    cr_expect_eq(publish("k"), Q_INVALID);
}
