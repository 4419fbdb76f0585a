/*
 * Options by name, and connecting by one line of text.
 */
#include <stdio.h>

#include <criterion/criterion.h>

#include <qmq/testing.h>

static void
expect_mistake(int code, const char *what, const char *hint)
{
    struct qmq_error error = qmq_last_error();
    cr_assert_eq(code, QMQ_INVALID);
    cr_assert(strstr(error.message, what), "%s, not: %s", what, error.message);
    cr_assert(strstr(error.hint, hint), "%s, not: %s", hint, error.hint);
}

Test(client_options, each_kind_is_set, .timeout = 60)
{
    struct qmq_client_options client = { .timeout_ms = 1 };
    cr_assert_eq(qmq_client_option_set(&client, "program", "shop 1.2"), QMQ_OK);
    cr_assert_eq(qmq_client_option_set(&client, "timeout_ms", "2500"), QMQ_OK);
    cr_assert_str_eq(client.program, "shop 1.2");
    cr_assert_eq(client.timeout_ms, 2500);

    struct qmq_producer_options producer = { .compress = false };
    cr_assert_eq(qmq_producer_option_set(&producer, "mode", "async"), QMQ_OK);
    cr_assert_eq(qmq_producer_option_set(&producer, "duplicates", "never"), QMQ_OK);
    cr_assert_eq(qmq_producer_option_set(&producer, "compress", "true"), QMQ_OK);
    cr_assert_eq(qmq_producer_option_set(&producer, "batch_bytes_max", "128KiB"), QMQ_OK);
    cr_assert_eq(qmq_producer_option_set(&producer, "memory_bytes_max", "8GiB"), QMQ_OK);
    cr_assert_eq(producer.mode, QMQ_MODE_ASYNC);
    cr_assert_eq(producer.duplicates, QMQ_DUPLICATES_NEVER);
    cr_assert(producer.compress);
    cr_assert_eq(producer.batch_bytes_max, 128 * 1024);
    cr_assert_eq(producer.memory_bytes_max, UINT64_C(8) << 30);

    struct qmq_consumer_options consumer = { .group = NULL };
    cr_assert_eq(qmq_consumer_option_set(&consumer, "start", "time"), QMQ_OK);
    cr_assert_eq(qmq_consumer_option_set(&consumer, "start_at", "1767225600000"), QMQ_OK);
    cr_assert_eq(consumer.start, QMQ_START_TIME);
    cr_assert_eq(consumer.start_at, UINT64_C(1767225600000));

    struct qmq_push_options push = { .threads = 1 };
    cr_assert_eq(qmq_push_option_set(&push, "threads", "8"), QMQ_OK);
    cr_assert_eq(qmq_push_option_set(&push, "prefetch_messages", "500"), QMQ_OK);
    cr_assert_eq(qmq_push_option_set(&push, "prefetch_bytes", "1GiB"), QMQ_OK);
    cr_assert_eq(qmq_push_option_set(&push, "is_paused", "true"), QMQ_OK);
    cr_assert_eq(push.threads, 8);
    cr_assert_eq(push.prefetch_messages, 500);
    cr_assert_eq(push.prefetch_bytes, UINT64_C(1) << 30);
    cr_assert(push.is_paused);

    struct qmq_reader_options reader = { .subject = NULL };
    cr_assert_eq(qmq_reader_option_set(&reader, "subject", "orders"), QMQ_OK);
    cr_assert_str_eq(reader.subject, "orders");
}

Test(client_options, mistakes_are_named, .timeout = 60)
{
    struct qmq_producer_options options = { .block_ms = 7 };
    int code = qmq_producer_option_set(&options, "dedline_ms", "1");
    expect_mistake(
        code, "a producer has no option \"dedline_ms\"", "did you mean \"deadline_ms\"?");
    code = qmq_producer_option_set(&options, "zzz", "1");
    expect_mistake(code, "\"zzz\"", "docs/options.md");
    code = qmq_producer_option_set(&options, "mode", "asynk");
    expect_mistake(code, "option mode can't be \"asynk\"", "did you mean");
    code = qmq_producer_option_set(&options, "mode", "nothing at all");
    expect_mistake(code, "option mode", "one of default async sync");
    code = qmq_producer_option_set(&options, "block_ms", "10s");
    expect_mistake(code, "option block_ms can't be \"10s\"", "a number from 0 to 4294967295");
    code = qmq_producer_option_set(&options, "block_ms", "-1");
    expect_mistake(code, "\"-1\"", "a number");
    code = qmq_producer_option_set(&options, "block_ms", "4294967296");
    expect_mistake(code, "block_ms", "a number");
    code = qmq_producer_option_set(&options, "batch_bytes_max", "4GiB");
    expect_mistake(code, "batch_bytes_max", "a size");
    code = qmq_producer_option_set(&options, "compress", "yes");
    expect_mistake(code, "compress", "one of false true");
    struct qmq_push_options push = { .threads = 3 };
    code = qmq_push_option_set(&push, "thread", "4");
    expect_mistake(code, "a push consumer has no option \"thread\"", "did you mean \"threads\"?");
    code = qmq_push_option_set(&push, "subject", "orders");
    expect_mistake(code, "a push consumer has no option \"subject\"", "");
    code = qmq_push_option_set(&push, "threads", "many");
    expect_mistake(code, "option threads can't be \"many\"", "a number");
    cr_assert_eq(push.threads, 3, "what is wrong changes nothing");
    cr_assert_eq(options.block_ms, 7, "what is wrong changes nothing");
}

Test(client_options, one_line_connects, .timeout = 120)
{
    struct qmq_testing *queue;
    cr_assert_eq(qmq_testing_start(NULL, &queue), QMQ_OK);
    const char *meta = qmq_testing_meta(queue);
    char text[200];
    (void)snprintf(text, sizeof(text), "qmq+%s?app=my%%20shop&timeout_ms=20000", meta);

    struct qmq_client *client;
    cr_assert_eq(qmq_connect_string(text, &client), QMQ_OK, "%s", qmq_last_error().message);
    qmq_client_free(client);

    /* The first one that answers. */
    (void)snprintf(
        text, sizeof(text), "qmq+inproc://nobody,%s?timeout_ms=500", meta + strlen("inproc://"));
    cr_assert_eq(qmq_connect_string(text, &client), QMQ_OK, "%s", qmq_last_error().message);
    qmq_client_free(client);
    cr_assert_eq(
        qmq_connect_string("qmq+inproc://nobody,neither?timeout_ms=100", &client), QMQ_UNAVAILABLE);
    cr_assert(strstr(qmq_last_error().message, "inproc://neither"));
    cr_assert_eq(qmq_testing_stop(queue), QMQ_OK);
}

Test(client_options, a_wrong_line_is_told_all_that_is_wrong, .timeout = 60)
{
    struct qmq_client *client;
    int code = qmq_connect_string("qmq://h/?timeout_mss=1&apq=x&timeout_ms=soon", &client);
    expect_mistake(code, "\"timeout_mss\"", "did you mean \"timeout_ms\"?");
    expect_mistake(code, "\"apq\"", "did you mean \"timeout_ms\"?");
    expect_mistake(code, "option timeout_ms can't be \"soon\"", "a number");

    expect_mistake(qmq_connect_string("", &client), "no connection string", "qmq://HOST");
    expect_mistake(qmq_connect_string("h:1", &client), "no connection string", "qmq://HOST");
    expect_mistake(qmq_connect_string("http://h:1", &client), "\"http://\"", "qmq://");
    expect_mistake(qmq_connect_string("qmq://", &client), "names no host", "qmq://HOST");
    expect_mistake(qmq_connect_string("qmq:///?app=x", &client), "names no host", "qmq://HOST");
    expect_mistake(qmq_connect_string("qmq://h/path", &client), "a path", "qmq://HOST");
    expect_mistake(qmq_connect_string("qmq://h/?app", &client), "\"app\"", "NAME=VALUE");
    expect_mistake(qmq_connect_string("qmq://h/?app=%2", &client), "\"app\"", "NAME=VALUE");
    expect_mistake(qmq_connect_string("qmq://h/?meta=x", &client), "string itself", "");

    char text[2000];
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    cr_assert_eq(qmq_connect_string(text, &client), QMQ_TOO_BIG);

    /* The port that meta has when none is told; nobody is there. */
    cr_assert_eq(qmq_connect_string("qmq://127.0.0.77/?timeout_ms=100", &client), QMQ_UNAVAILABLE);
    cr_assert(
        strstr(qmq_last_error().message, "tcp://127.0.0.77:20880"), "%s", qmq_last_error().message);
    cr_assert_eq(qmq_connect_string("qmq://[::1]:9/?timeout_ms=100", &client), QMQ_UNAVAILABLE);
    cr_assert(strstr(qmq_last_error().message, "tcp://[::1]:9"), "%s", qmq_last_error().message);
}
