/*
 * test_client_groups.c: groups through the public header, against a real broker inside the process.
 */
#include <stdio.h>
#include <string.h>

#include <criterion/criterion.h>

#include <qmq/testing.h>

enum {
    WAIT_MS = 60 * 1000,
    COUNT = 10,
};

static struct qmq_testing *queue;
static struct qmq_client *client;

static void
set_up(void)
{
    cr_assert_eq(qmq_testing_start(NULL, &queue), QMQ_OK, "%s", qmq_testing_last_error().message);
    struct qmq_client_options options = { .meta = qmq_testing_meta(queue) };
    cr_assert_eq(qmq_connect(&options, &client), QMQ_OK, "%s", qmq_last_error().message);
}

static void
tear_down(void)
{
    qmq_client_free(client);
    cr_assert_eq(qmq_testing_stop(queue), QMQ_OK, "%s", qmq_testing_last_error().message);
}

TestSuite(client_groups, .init = set_up, .fini = tear_down, .timeout = 120);

#define expect_ok(call) cr_assert_eq((call), QMQ_OK, "%s", qmq_last_error().message)

/* Messages "0", "1", … with the tags "even" and "odd". */
static void
send_numbers(const char *subject, unsigned count)
{
    static const struct qmq_bytes tags[] = { { "even", 4 }, { "odd", 3 } };
    struct qmq_producer *producer;
    expect_ok(qmq_producer_new(client, NULL, &producer));
    for (unsigned number = 0; number < count; number++) {
        char body[16];
        int size = snprintf(body, sizeof(body), "%u", number);
        struct qmq_outgoing message = {
            .body = { body, (size_t)size },
            .tags = &tags[number % 2],
            .tag_count = 1,
        };
        expect_ok(qmq_send_wait(producer, subject, &message, NULL));
    }
    qmq_producer_free(producer);
}

static struct qmq_consumer *
join_with(const struct qmq_consumer_options *options)
{
    struct qmq_consumer *consumer;
    expect_ok(qmq_consumer_new(client, options, &consumer));
    return consumer;
}

static struct qmq_consumer *
join(const char *group, const char *name)
{
    struct qmq_consumer_options options = {
        .subject = "orders",
        .group = group,
        .consumer = name,
        .no_prefetch = true,
    };
    return join_with(&options);
}

/* Exactly `count` messages, perhaps in several pulls; acknowledged, unless a look is enough. */
static void
take(struct qmq_consumer *consumer, unsigned count, uint64_t first, uint32_t attempt, bool acks)
{
    for (unsigned taken = 0; taken < count;) {
        struct qmq_batch *batch;
        expect_ok(qmq_pull(consumer, count - taken, WAIT_MS, &batch));
        for (size_t index = 0; index < qmq_batch_count(batch); index++, taken++) {
            const struct qmq_message *message = qmq_batch_message(batch, index);
            cr_assert_eq(message->sequence, first + taken);
            cr_assert_eq(message->attempt, attempt);
        }
        if (acks) expect_ok(qmq_ack(consumer, batch, 0, qmq_batch_count(batch)));
        qmq_batch_free(batch);
    }
}

static void
expect_nothing(struct qmq_consumer *consumer)
{
    struct qmq_batch *batch;
    cr_assert_eq(qmq_pull(consumer, 0, 0, &batch), QMQ_AGAIN, "%s", qmq_last_error().message);
}

static void
keep_lag(void *context, const struct qmq_lag *lag)
{
    *(struct qmq_lag *)context = *lag;
}

/* Without its consumers, which live for the call only. */
static struct qmq_lag
lag_of(const char *group)
{
    struct qmq_lag lag = { .cursor = UINT64_MAX };
    expect_ok(qmq_group_lag(client, "orders", group, keep_lag, &lag));
    cr_assert_neq(lag.cursor, UINT64_MAX);
    return lag;
}

static void
keep_controlled(void *context, const struct qmq_controlled *controlled)
{
    *(struct qmq_controlled *)context = *controlled;
}

static int
control(const char *group, const struct qmq_control *wanted, struct qmq_controlled *controlled)
{
    return qmq_group_control(client, "orders", group, wanted, keep_controlled, controlled);
}

/* What has failed comes again as its next attempt: at once, or when its delay is over. */
Test(client_groups, a_negative_ack)
{
    send_numbers("orders", COUNT);
    struct qmq_consumer *consumer = join("g", "c");
    struct qmq_batch *batch;
    expect_ok(qmq_pull(consumer, 1, WAIT_MS, &batch));
    struct qmq_nack_options now = { .with_delay = true, .error = "card declined" };
    expect_ok(qmq_nack(consumer, batch, 0, 1, &now));
    cr_assert_eq(qmq_nack(consumer, batch, 0, 1, &now), QMQ_EXPIRED);
    cr_assert(strstr(qmq_last_error().message, "1 of 1 messages"));
    qmq_batch_free(batch);
    take(consumer, 1, 0, 2, true);

    expect_ok(qmq_pull(consumer, 1, WAIT_MS, &batch));
    struct qmq_nack_options later = { .with_delay = true, .delay_ms = 3600 * 1000 };
    expect_ok(qmq_nack(consumer, batch, 0, 1, &later));
    qmq_batch_free(batch);
    take(consumer, COUNT - 2, 2, 1, true);
    expect_nothing(consumer);
    struct qmq_lag lag = lag_of("g");
    cr_expect_eq(lag.pending_retry, 1);
    cr_expect_eq(lag.ready, 0);
    cr_expect(lag.has_oldest);
    cr_expect_eq(lag.oldest, 1);
    cr_expect_eq(lag.cursor, COUNT);
    qmq_consumer_free(consumer);
}

/* What was not acknowledged in its time comes again, as the next attempt. */
Test(client_groups, invisible_time)
{
    send_numbers("orders", 1);
    struct qmq_consumer_options options = {
        .subject = "orders",
        .group = "g",
        .invisible_ms = 50,
        .no_prefetch = true,
    };
    struct qmq_consumer *consumer = join_with(&options);
    take(consumer, 1, 0, 1, false);
    struct qmq_batch *batch;
    expect_ok(qmq_pull(consumer, 1, WAIT_MS, &batch));
    cr_expect_eq(qmq_batch_message(batch, 0)->attempt, 2);
    qmq_batch_free(batch);
    qmq_consumer_free(consumer);
}

Test(client_groups, at_most_once)
{
    send_numbers("orders", COUNT);
    struct qmq_consumer_options options = {
        .subject = "orders",
        .group = "g",
        .at_most_once = true,
    };
    struct qmq_consumer *consumer = join_with(&options);
    take(consumer, COUNT, 0, 1, false);
    qmq_consumer_free(consumer);
    cr_expect_eq(lag_of("g").in_flight, 0);
    consumer = join_with(&options);
    expect_nothing(consumer);
    qmq_consumer_free(consumer);
}

/* Each consumer has a group of its own, which begins at the end. */
Test(client_groups, broadcast)
{
    send_numbers("orders", COUNT);
    struct qmq_consumer_options options = {
        .subject = "orders",
        .consumer = "left",
        .broadcast = true,
    };
    struct qmq_consumer *left = join_with(&options);
    options.consumer = "right";
    options.start = QMQ_START_SEQUENCE;
    options.start_at = COUNT - 2;
    struct qmq_consumer *right = join_with(&options);
    expect_nothing(left);
    send_numbers("orders", 1);
    take(left, 1, COUNT, 1, true);
    take(right, 3, COUNT - 2, 1, true);
    cr_expect(lag_of("left").broadcast);
    qmq_consumer_free(left);
    qmq_consumer_free(right);
    options.group = "g";
    struct qmq_consumer *consumer;
    cr_expect_eq(qmq_consumer_new(client, &options, &consumer), QMQ_INVALID);
}

/* A preview changes nothing. Acks of what was handed out before a seek come too late. */
Test(client_groups, seek)
{
    send_numbers("orders", COUNT);
    struct qmq_consumer *consumer = join("g", "c");
    take(consumer, COUNT - 1, 0, 1, true);
    struct qmq_batch *batch;
    expect_ok(qmq_pull(consumer, 1, WAIT_MS, &batch));

    struct qmq_control seek = {
        .kind = QMQ_CONTROL_SEEK,
        .start = QMQ_START_SEQUENCE,
        .at = 3,
        .preview = true,
    };
    struct qmq_controlled controlled = { .epoch = UINT64_MAX };
    expect_ok(control("g", &seek, &controlled));
    cr_expect_eq(controlled.affected, 1);
    cr_expect_eq(controlled.cursor, 3);
    cr_expect_eq(lag_of("g").cursor, COUNT);
    seek.preview = false;
    expect_ok(control("g", &seek, &controlled));
    cr_expect_eq(controlled.epoch, 1);
    cr_expect_eq(qmq_ack(consumer, batch, 0, 1), QMQ_EXPIRED);
    qmq_batch_free(batch);
    take(consumer, COUNT - 3, 3, 1, true);

    seek.start = QMQ_START_DEFAULT;
    cr_expect_eq(control("g", &seek, &controlled), QMQ_INVALID);
    cr_expect_eq(
        control("nobody", &(struct qmq_control){ .kind = QMQ_CONTROL_PAUSE }, &controlled),
        QMQ_NOT_FOUND);
    qmq_consumer_free(consumer);
}

Test(client_groups, pause_skip_resend_delete)
{
    send_numbers("orders", COUNT);
    struct qmq_consumer *consumer = join("g", "c");
    struct qmq_controlled controlled;
    struct qmq_control change = { .kind = QMQ_CONTROL_PAUSE };
    expect_ok(control("g", &change, &controlled));
    expect_nothing(consumer);
    struct qmq_consumer_info info;
    qmq_consumer_info(consumer, &info);
    cr_expect_eq(info.held, QMQ_HELD_PAUSED);
    cr_expect_eq(info.waiting, COUNT);
    cr_expect_eq(lag_of("g").held, QMQ_HELD_PAUSED);
    change.kind = QMQ_CONTROL_RESUME;
    expect_ok(control("g", &change, &controlled));

    change = (struct qmq_control){ .kind = QMQ_CONTROL_SKIP, .first = 0, .last = 4 };
    expect_ok(control("g", &change, &controlled));
    cr_expect_eq(controlled.affected, 5);
    take(consumer, COUNT - 5, 5, 1, true);
    change.kind = QMQ_CONTROL_RESEND;
    change.first = 3;
    expect_ok(control("g", &change, &controlled));
    cr_expect_eq(controlled.affected, 2);
    take(consumer, 2, 3, 1, true);
    qmq_consumer_free(consumer);

    change = (struct qmq_control){ .kind = QMQ_CONTROL_DELETE };
    expect_ok(control("g", &change, &controlled));
    cr_expect_eq(control("g", &change, &controlled), QMQ_NOT_FOUND);
}

Test(client_groups, settings)
{
    qmq_consumer_free(join("g", "c"));
    struct qmq_controlled controlled;
    struct qmq_control change = {
        .kind = QMQ_CONTROL_SETTINGS,
        .settings = { .strict = true,
                      .attempts_max = 3,
                      .backoff_count = 2,
                      .backoff_ms = { 1, 2 } },
    };
    expect_ok(control("g", &change, &controlled));
    struct qmq_group_settings settings = lag_of("g").settings;
    cr_expect(settings.strict);
    cr_expect_eq(settings.attempts_max, 3);
    cr_expect_eq(settings.backoff_count, 2);
    cr_expect_eq(settings.backoff_ms[1], 2);
    cr_expect_gt(settings.pending_max, 0);
    change.settings.attempts_max = 100000;
    cr_expect_eq(control("g", &change, &controlled), QMQ_INVALID);
}

struct listed {
    unsigned count;
    char names[4][16];
    uint32_t members;
};

static void
list_group(void *context, const struct qmq_group_info *group)
{
    struct listed *listed = context;
    cr_assert_lt(listed->count, 4);
    listed->members += group->members;
    (void)snprintf(
        listed->names[listed->count++], sizeof(listed->names[0]), "%s/%s", group->subject,
        group->group);
}

Test(client_groups, list_and_consumers)
{
    struct listed listed = { .count = 0 };
    expect_ok(qmq_groups(client, NULL, list_group, &listed));
    cr_assert_eq(listed.count, 0);
    struct qmq_consumer *consumer = join("one", "c");
    qmq_consumer_free(join("two", "c"));
    expect_ok(qmq_groups(client, NULL, list_group, &listed));
    cr_expect_eq(listed.count, 2);
    cr_expect_eq(listed.members, 1);
    listed = (struct listed){ .count = 0 };
    expect_ok(qmq_groups(client, "orders", list_group, &listed));
    cr_expect_eq(listed.count, 2);
    cr_expect_str_eq(listed.names[0], "orders/one");
    cr_expect_eq(qmq_groups(client, "others", list_group, &listed), QMQ_NOT_FOUND);
    cr_expect_eq(qmq_groups(client, "%odd", list_group, &listed), QMQ_INVALID);
    struct qmq_lag lag = lag_of("one");
    cr_expect_eq(lag.consumer_count, 1);
    cr_expect_eq(lag.members, 1);
    qmq_consumer_free(consumer);
}

/* A reader sees everything, however much of it at once, makes no group, and goes on later. */
Test(client_groups, a_reader_leaves_nothing)
{
    struct qmq_reader_options options = { .subject = "orders" };
    struct qmq_reader *reader;
    struct qmq_batch *batch;
    expect_ok(qmq_reader_new(client, &options, &reader));
    cr_expect_eq(qmq_read(reader, 0, &batch), QMQ_NOT_FOUND);
    send_numbers("orders", COUNT);
    for (unsigned at = 0; at < COUNT;) {
        expect_ok(qmq_read(reader, 3, &batch));
        size_t count = qmq_batch_count(batch);
        cr_assert_leq(count, 3);
        for (size_t index = 0; index < count; index++, at++) {
            cr_expect_eq(qmq_batch_message(batch, index)->sequence, at);
            cr_expect_eq(qmq_batch_message(batch, index)->attempt, 0);
        }
        qmq_batch_free(batch);
    }
    cr_expect_eq(qmq_read(reader, 0, &batch), QMQ_AGAIN);
    send_numbers("orders", 1);
    expect_ok(qmq_read(reader, 0, &batch));
    cr_expect_eq(qmq_batch_message(batch, 0)->sequence, COUNT);
    qmq_batch_free(batch);
    qmq_reader_free(reader);

    static const char *const tags[] = { "odd" };
    options = (struct qmq_reader_options){
        .subject = "orders",
        .start = QMQ_START_SEQUENCE,
        .start_at = 4,
        .tags = tags,
        .tag_count = 1,
    };
    expect_ok(qmq_reader_new(client, &options, &reader));
    for (unsigned at = 5; at < COUNT; at += 2) {
        expect_ok(qmq_read(reader, 2, &batch));
        cr_assert_eq(qmq_batch_count(batch), 1);
        cr_expect_eq(qmq_batch_message(batch, 0)->sequence, at);
        qmq_batch_free(batch);
    }
    cr_expect_eq(qmq_read(reader, 0, &batch), QMQ_AGAIN);
    qmq_reader_free(reader);
    struct listed listed = { .count = 0 };
    expect_ok(qmq_groups(client, NULL, list_group, &listed));
    cr_expect_eq(listed.count, 0);
    options.broker_group = "nowhere";
    cr_expect_eq(qmq_reader_new(client, &options, &reader), QMQ_NOT_FOUND);
}

/* Members of one group may have different filters: nobody loses what is another's. */
Test(client_groups, members_with_filters_of_their_own)
{
    static const char *const odd[] = { "odd" };
    static const char *const even[] = { "even" };
    send_numbers("orders", COUNT);
    struct qmq_consumer_options options = {
        .subject = "orders",
        .group = "g",
        .no_prefetch = true,
        .tags = odd,
        .tag_count = 1,
    };
    struct qmq_consumer *left = join_with(&options);
    options.tags = even;
    struct qmq_consumer *right = join_with(&options);
    struct qmq_consumer *consumers[] = { left, right };
    for (unsigned which = 0; which < 2; which++) {
        for (unsigned taken = 0; taken < COUNT / 2;) {
            struct qmq_batch *batch;
            expect_ok(qmq_pull(consumers[which], 0, WAIT_MS, &batch));
            for (size_t index = 0; index < qmq_batch_count(batch); index++, taken++)
                cr_expect_neq(qmq_batch_message(batch, index)->sequence % 2, which);
            expect_ok(qmq_ack(consumers[which], batch, 0, qmq_batch_count(batch)));
            qmq_batch_free(batch);
        }
        expect_nothing(consumers[which]);
    }
    qmq_consumer_free(left);
    qmq_consumer_free(right);
}
