/*
 * test_client_push.c: a push consumer against a real broker inside the process. Without a fault each
 * message is handled once, whatever threads, keys, pauses and ends there are.
 */
#include <unistd.h>

#include <qmq/testing.h>

#include "push_probe.h"

enum {
    WAIT_MS = 60 * 1000,
    KEYS = 16,
};

static struct qmq_testing *queue;
static struct qmq_client *client;
static struct probe *probe;

static void
set_up(void)
{
    cr_assert_eq(qmq_testing_start(NULL, &queue), QMQ_OK, "%s", qmq_testing_last_error().message);
    struct qmq_client_options options = { .meta = qmq_testing_meta(queue) };
    cr_assert_eq(qmq_connect(&options, &client), QMQ_OK, "%s", qmq_last_error().message);
    probe = probe_new();
}

static void
tear_down(void)
{
    probe_free(probe);
    qmq_client_free(client);
    cr_assert_eq(qmq_testing_stop(queue), QMQ_OK, "%s", qmq_testing_last_error().message);
}

TestSuite(client_push, .init = set_up, .fini = tear_down, .timeout = 120);

#define expect_ok(call) cr_assert_eq((call), QMQ_OK, "%s", qmq_last_error().message)

/* "KEY NUMBER" for numbers from `first` on, keys in turn; padded to `size`. */
static void
send(unsigned first, unsigned count, unsigned keys, size_t size)
{
    struct qmq_producer *producer;
    expect_ok(qmq_producer_new(client, NULL, &producer));
    char *body = calloc(1, size + 64);
    for (unsigned number = first; number < first + count; number++) {
        char order_key[16];
        unsigned key = keys > 0 ? number % keys + 1 : 0;
        size_t length = (size_t)snprintf(body, 64, "%u %u", key, number);
        int key_size = snprintf(order_key, sizeof(order_key), "key-%u", key);
        struct qmq_outgoing message = {
            .body = { body, length < size ? size : length },
            .order_key = { order_key, keys > 0 ? (size_t)key_size : 0 },
        };
        expect_ok(qmq_send(producer, "orders", &message, NULL, NULL));
    }
    expect_ok(qmq_flush(producer, WAIT_MS));
    qmq_producer_free(producer);
    free(body);
}

static const struct qmq_consumer_options wanted = { .subject = "orders", .group = "g" };

static struct qmq_push_options
options_of(uint32_t threads)
{
    return (struct qmq_push_options){
        .consumer = &wanted,
        .handler = probe_handle,
        .context = probe,
        .threads = threads,
        .trouble = probe_trouble,
        .trouble_context = probe,
    };
}

static struct qmq_push *
push_new(const struct qmq_push_options *options)
{
    struct qmq_push *push;
    expect_ok(qmq_push_new(client, options, &push));
    return push;
}

static void
keep_lag(void *context, const struct qmq_lag *lag)
{
    *(struct qmq_lag *)context = *lag;
}

static struct qmq_lag
lag_now(void)
{
    struct qmq_lag lag = { .cursor = UINT64_MAX };
    expect_ok(qmq_group_lag(client, "orders", "g", keep_lag, &lag));
    return lag;
}

/* Nothing is left: all is done with, and no one has anything. */
static void
expect_all_done(void)
{
    struct qmq_lag lag = lag_now();
    cr_assert_eq(lag.waiting + lag.in_flight + lag.ready, 0);
    cr_assert_eq(lag.pending_retry + lag.pending_released + lag.pending_key, 0);
}

static void
set_group(const struct qmq_group_settings *settings)
{
    struct qmq_consumer *consumer;
    expect_ok(qmq_consumer_new(client, &wanted, &consumer));
    qmq_consumer_free(consumer);
    struct qmq_control control = { .kind = QMQ_CONTROL_SETTINGS, .settings = *settings };
    expect_ok(qmq_group_control(client, "orders", "g", &control, NULL, NULL));
}

static struct qmq_push_info
info_of(struct qmq_push *push)
{
    struct qmq_push_info info;
    qmq_push_info(push, &info);
    return info;
}

Test(client_push, handles_each_message_once)
{
    enum {
        COUNT = 3000
    };
    send(0, COUNT, 0, 0);
    probe->wait_for = 4; /* as many at once as there are threads */
    struct qmq_push_options options = options_of(4);
    options.prefetch_messages = 300;
    struct qmq_push *push = push_new(&options);
    probe_wait(probe, probe->calls == COUNT);
    expect_ok(qmq_push_stop(push, WAIT_MS));
    cr_assert_eq(probe->running_max, 4);
    probe_expect_once(probe, 0, COUNT);
    struct qmq_push_info info = info_of(push);
    cr_assert_eq(info.handled, COUNT);
    cr_assert_eq(info.held + info.held_bytes + info.failed + info.expired + info.handed_back, 0);
    qmq_push_free(push);
    expect_all_done();
}

/* Messages that come later wake a handler, and their acks don't wait for others. */
Test(client_push, waits_for_messages)
{
    struct qmq_push_options options = options_of(2);
    struct qmq_push *push = push_new(&options);
    for (unsigned number = 0; number < 5; number++) {
        send(number, 1, 0, 0);
        probe_wait(probe, probe->calls == number + 1);
        while (info_of(push).held > 0)
            usleep(1000);
    }
    expect_all_done();
    qmq_push_free(push);
}

/* A graceful end: what runs is waited for; what no handler had goes to the next consumer. */
Test(client_push, stop_hands_back_what_was_not_begun)
{
    enum {
        COUNT = 200
    };
    send(0, COUNT, 0, 0);
    probe->is_closed = true;
    struct qmq_push_options options = options_of(3);
    struct qmq_push *push = push_new(&options);
    probe_wait(probe, probe->running == 3);
    cr_assert_eq(qmq_push_stop(push, 1), QMQ_TIMED_OUT);
    cr_assert_eq(probe->calls, 3);

    /* It was a forced end: the three that run come again as well. */
    probe_open(probe, true);
    struct qmq_push *next = push_new(&options);
    probe_wait(probe, probe->calls == COUNT + 3);
    expect_ok(qmq_push_stop(next, WAIT_MS));
    qmq_push_free(next);
    qmq_push_free(push);
    expect_all_done();
    cr_assert_eq(probe->calls, COUNT + 3);
}

static void *
open_soon(void *context)
{
    usleep(50000);
    probe_open(context, true);
    return NULL;
}

Test(client_push, stop_waits_for_handlers)
{
    enum {
        COUNT = 200
    };
    send(0, COUNT, 0, 0);
    probe->is_closed = true;
    struct qmq_push_options options = options_of(3);
    struct qmq_push *push = push_new(&options);
    probe_wait(probe, probe->running == 3);
    pthread_t thread;
    pthread_create(&thread, NULL, open_soon, probe);
    expect_ok(qmq_push_stop(push, WAIT_MS));
    pthread_join(thread, NULL);
    cr_assert_eq(probe->calls, 3);
    cr_assert_eq(info_of(push).handled, 3);
    cr_assert_gt(info_of(push).handed_back, 0);
    expect_ok(qmq_push_stop(push, WAIT_MS));
    qmq_push_free(push);

    struct qmq_push *next = push_new(&options);
    probe_wait(probe, probe->calls == COUNT);
    expect_ok(qmq_push_stop(next, WAIT_MS));
    qmq_push_free(next);
    probe_expect_once(probe, 0, COUNT);
    expect_all_done();
}

Test(client_push, order_keys_are_kept_by_many_threads)
{
    enum {
        COUNT = 2000
    };
    send(0, COUNT, KEYS, 0);
    struct qmq_push_options options = options_of(4);
    struct qmq_push *push = push_new(&options);
    probe_wait(probe, probe->calls == COUNT);
    expect_ok(qmq_push_stop(push, WAIT_MS));
    qmq_push_free(push);
    cr_assert_eq(probe->disorders, 0);
    probe_expect_once(probe, 0, COUNT);
    expect_all_done();
}

/* One of each key at a time, and as many keys as there are threads. */
Test(client_push, keys_run_side_by_side)
{
    send(0, 4 * KEYS, KEYS, 0);
    probe->wait_for = 4;
    struct qmq_push_options options = options_of(4);
    struct qmq_push *push = push_new(&options);
    probe_wait(probe, probe->calls == 4 * KEYS);
    expect_ok(qmq_push_stop(push, WAIT_MS));
    qmq_push_free(push);
    cr_assert_eq(probe->disorders, 0);
}

/* In a strict group what lies behind a failed message of its key is not handled before it. */
Test(client_push, a_strict_run_stops_at_its_first_failure)
{
    enum {
        COUNT = 40 * KEYS
    };
    struct qmq_group_settings settings = { .strict = true,
                                           .backoff_count = 1,
                                           .backoff_ms = { 20 } };
    set_group(&settings);
    send(0, COUNT, KEYS, 0);
    probe->fail_first = 7;
    struct qmq_push_options options = options_of(4);
    struct qmq_push *push = push_new(&options);
    unsigned failures = (COUNT + 6) / 7;
    probe_wait(probe, probe->calls == COUNT + failures);
    expect_ok(qmq_push_stop(push, WAIT_MS));
    struct qmq_push_info info = info_of(push);
    qmq_push_free(push);
    cr_assert_eq(probe->disorders, 0);
    for (unsigned number = 0; number < COUNT; number++)
        cr_assert_eq(probe->seen[number], number % 7 == 0 ? 2 : 1, "%u", number);
    cr_assert_eq(info.failed, failures);
    cr_assert_gt(info.handed_back, 0);
    cr_assert_eq(info.expired, 0);
    expect_all_done();
}

static bool
is_dead_as_told(const struct qmq_message *message, const char *error)
{
    struct qmq_bytes value;
    return qmq_message_property(message, "dead-error", &value) && value.size == strlen(error) &&
           memcmp(value.data, error, value.size) == 0;
}

Test(client_push, what_fails_for_good_becomes_a_dead_letter)
{
    enum {
        COUNT = 50
    };
    struct qmq_group_settings settings = { .attempts_max = 3 };
    set_group(&settings);
    send(0, COUNT, 0, 0);
    probe->fail_always = 5;
    probe->nack = (struct qmq_nack_options){ .with_delay = true, .error = "the bank is down" };
    struct qmq_push_options options = options_of(2);
    struct qmq_push *push = push_new(&options);
    probe_wait(probe, probe->calls == 3 * COUNT);
    expect_ok(qmq_push_stop(push, WAIT_MS));
    cr_assert_eq(info_of(push).failed, 3 * COUNT);
    qmq_push_free(push);
    while (lag_now().dead < COUNT)
        usleep(10000);

    struct qmq_reader_options dead = { .subject = "%DEAD_RETRY%orders%g" };
    struct qmq_reader *reader;
    expect_ok(qmq_reader_new(client, &dead, &reader));
    unsigned count = 0;
    while (count < COUNT) {
        struct qmq_batch *batch;
        int code = qmq_read(reader, 0, &batch);
        if (code == QMQ_AGAIN) continue;
        expect_ok(code);
        for (size_t index = 0; index < qmq_batch_count(batch); index++, count++)
            cr_assert(is_dead_as_told(qmq_batch_message(batch, index), "the bank is down"));
        qmq_batch_free(batch);
    }
    qmq_reader_free(reader);
}

/* Without a text of its own a failure tells the handler's code; back-off is the group's. */
Test(client_push, a_failure_without_a_text_tells_its_code)
{
    struct qmq_group_settings settings = { .attempts_max = 2,
                                           .backoff_count = 1,
                                           .backoff_ms = { 1 } };
    set_group(&settings);
    send(0, 1, 0, 0);
    probe->fail_always = 5;
    struct qmq_push_options options = options_of(1);
    struct qmq_push *push = push_new(&options);
    probe_wait(probe, probe->calls == 2);
    while (lag_now().dead < 1)
        usleep(10000);
    qmq_push_free(push);
    struct qmq_reader_options dead = { .subject = "%DEAD_RETRY%orders%g" };
    struct qmq_reader *reader;
    struct qmq_batch *batch;
    expect_ok(qmq_reader_new(client, &dead, &reader));
    while (qmq_read(reader, 0, &batch) != QMQ_OK)
        usleep(10000);
    cr_assert(is_dead_as_told(qmq_batch_message(batch, 0), "the handler returned 5"));
    qmq_batch_free(batch);
    qmq_reader_free(reader);
}

Test(client_push, pause_and_resume)
{
    struct qmq_push_options options = options_of(2);
    options.is_paused = true;
    struct qmq_push *push = push_new(&options);
    send(0, 100, 0, 0);
    cr_assert(info_of(push).is_paused);
    usleep(50000);
    cr_assert_eq(probe->calls, 0);
    cr_assert_eq(lag_now().in_flight, 0, "nothing is fetched");
    qmq_push_resume(push);
    probe_wait(probe, probe->calls == 100);

    /* In the middle of it: what runs ends, and no other begins. */
    probe_open(probe, false);
    send(100, 100, 0, 0);
    probe_wait(probe, probe->running == 2);
    qmq_push_pause(push);
    probe_open(probe, true);
    probe_wait(probe, probe->running == 0);
    usleep(50000);
    cr_assert_eq(probe->calls, 102);
    qmq_push_resume(push);
    probe_wait(probe, probe->calls == 200);
    expect_ok(qmq_push_stop(push, WAIT_MS));
    qmq_push_free(push);
    probe_expect_once(probe, 0, 200);
}

/* However slow the handlers are, no more is held than was said. */
Test(client_push, limits_hold)
{
    enum {
        COUNT = 400,
        BODY = 5000,
        BYTES = 100 * 1000,
        MESSAGES = 30
    };
    send(0, COUNT, 0, BODY);
    probe->keeps = true;
    struct qmq_push_options options = options_of(2);
    options.prefetch_bytes = BYTES;
    struct qmq_push *push = push_new(&options);
    uint64_t most = 0;
    for (unsigned done = 0; done < COUNT; done++) {
        probe_wait(probe, probe->kept_count > 0);
        struct qmq_push_info info = info_of(push);
        most = info.held_bytes > most ? info.held_bytes : most;
        expect_ok(qmq_delivery_ack(probe_take_kept(probe)));
    }
    expect_ok(qmq_push_stop(push, WAIT_MS));
    qmq_push_free(push);
    probe_expect_once(probe, 0, COUNT);
    cr_assert_gt(most, BODY);
    cr_assert_leq(most, 2 * BYTES, "%llu", (unsigned long long)most);

    send(COUNT, COUNT, 0, 0);
    options.prefetch_bytes = 0;
    options.prefetch_messages = MESSAGES;
    push = push_new(&options);
    for (unsigned done = 0; done < COUNT; done++) {
        probe_wait(probe, probe->kept_count > 0);
        cr_assert_leq(info_of(push).held, MESSAGES);
        expect_ok(qmq_delivery_ack(probe_take_kept(probe)));
    }
    expect_ok(qmq_push_stop(push, WAIT_MS));
    qmq_push_free(push);
    expect_all_done();
}

/* Kept messages are decided by another thread, before and after their handlers have returned. */
Test(client_push, kept_messages_are_decided_later)
{
    enum {
        COUNT = 1000
    };
    struct qmq_group_settings settings = { .attempts_max = 2,
                                           .backoff_count = 1,
                                           .backoff_ms = { 1 } };
    set_group(&settings);
    send(0, COUNT, KEYS, 0);
    probe->keeps = true;
    struct qmq_push_options options = options_of(4);
    struct qmq_push *push = push_new(&options);
    struct qmq_nack_options nack = { .with_delay = true, .error = "not yet" };
    for (unsigned done = 0; done < COUNT + COUNT / 10; done++) {
        probe_wait(probe, probe->kept_count > 0);
        struct qmq_delivery *delivery = probe_take_kept(probe);
        const struct qmq_message *message = qmq_delivery_message(delivery);
        if (message->sequence % 10 == 0 && message->attempt == 1)
            expect_ok(qmq_delivery_nack(delivery, &nack));
        else
            expect_ok(qmq_delivery_ack(delivery));
    }
    expect_ok(qmq_push_stop(push, WAIT_MS));
    struct qmq_push_info info = info_of(push);
    cr_assert_eq(info.handled, COUNT);
    cr_assert_eq(info.failed, COUNT / 10);
    qmq_push_free(push);
    expect_all_done();
}

/* A kept message outlives its consumer; its verdict does nothing any more. */
Test(client_push, a_kept_message_outlives_its_consumer)
{
    send(0, 2 * KEYS, KEYS, 0);
    probe->keeps = true;
    struct qmq_push_options options = options_of(2);
    struct qmq_push *push = push_new(&options);
    probe_wait(probe, probe->kept_count == KEYS);
    cr_assert_eq(qmq_push_stop(push, 1), QMQ_TIMED_OUT);
    qmq_push_free(push);
    struct qmq_delivery *delivery;
    while ((delivery = probe_take_kept(probe))) {
        cr_assert_eq(qmq_delivery_message(delivery)->attempt, 1);
        cr_assert_eq(qmq_delivery_ack(delivery), QMQ_STOPPING);
    }
    cr_assert_eq(lag_now().in_flight, 0);
    cr_assert_eq(lag_now().ready, 2 * KEYS);
}

struct filter {
    unsigned before;
    unsigned after;
    unsigned bad; /* after with another code than meant */
};

static enum qmq_filtered
filter_before(void *context, const struct qmq_message *message)
{
    struct filter *filter = context;
    __atomic_fetch_add(&filter->before, 1, __ATOMIC_RELAXED);
    if (message->sequence % 10 == 3) return QMQ_FILTER_SKIP;
    return message->sequence % 10 == 5 && message->attempt == 1 ? QMQ_FILTER_FAIL
                                                                : QMQ_FILTER_HANDLE;
}

static enum qmq_filtered
filter_all(void *context, const struct qmq_message *message)
{
    (void)message;
    __atomic_fetch_add(&((struct filter *)context)->before, 1, __ATOMIC_RELAXED);
    return QMQ_FILTER_HANDLE;
}

static void
filter_after(void *context, const struct qmq_message *message, int code)
{
    struct filter *filter = context;
    bool is_failed = message->sequence % 10 == 5 && message->attempt == 1;
    __atomic_fetch_add(&filter->after, 1, __ATOMIC_RELAXED);
    if ((code != 0) != is_failed) __atomic_fetch_add(&filter->bad, 1, __ATOMIC_RELAXED);
}

Test(client_push, filters_run_around_the_handler)
{
    enum {
        COUNT = 100
    };
    struct qmq_group_settings settings = { .backoff_count = 1, .backoff_ms = { 1 } };
    set_group(&settings);
    send(0, COUNT, 0, 0);
    struct filter counts[2] = { { .before = 0 }, { .before = 0 } };
    const struct qmq_filter filters[] = {
        { .context = &counts[0], .before = filter_all, .after = filter_after },
        { .context = &counts[1], .before = filter_before, .after = filter_after },
    };
    struct qmq_push_options options = options_of(2);
    options.filters = filters;
    options.filter_count = 2;
    struct qmq_push *push = push_new(&options);
    probe_wait(probe, probe->calls == COUNT - COUNT / 10);
    expect_ok(qmq_push_stop(push, WAIT_MS));
    struct qmq_push_info info = info_of(push);
    qmq_push_free(push);
    cr_assert_eq(info.skipped, COUNT / 10);
    cr_assert_eq(info.failed, COUNT / 10);
    cr_assert_eq(info.handled, COUNT - COUNT / 10);
    cr_assert_eq(counts[0].before, COUNT + COUNT / 10);
    cr_assert_eq(counts[0].after, counts[0].before, "each `before` has its `after`");
    cr_assert_eq(counts[1].after, COUNT - COUNT / 10);
    cr_assert_eq(counts[0].bad + counts[1].bad, 0);
    expect_all_done();
}

/* What comes again although it was handled is not handled again. */
Test(client_push, once_is_once_under_redelivery)
{
    enum {
        COUNT = 300
    };
    struct qmq_once *once;
    expect_ok(qmq_once_memory_new(NULL, &once));
    send(0, COUNT, 0, 0);
    probe->fail_first = 10;
    probe->nack = (struct qmq_nack_options){ .with_delay = true };
    struct qmq_push_options options = options_of(3);
    options.once = once;
    struct qmq_push *push = push_new(&options);
    probe_wait(probe, probe->calls == COUNT + COUNT / 10);
    while (info_of(push).held > 0)
        usleep(1000);

    struct qmq_control again = { .kind = QMQ_CONTROL_RESEND, .first = 0, .last = COUNT - 1 };
    expect_ok(qmq_group_control(client, "orders", "g", &again, NULL, NULL));
    while (info_of(push).repeated < COUNT)
        usleep(1000);
    expect_ok(qmq_push_stop(push, WAIT_MS));
    cr_assert_eq(info_of(push).repeated, COUNT);
    cr_assert_eq(probe->calls, COUNT + COUNT / 10);
    qmq_push_free(push);
    qmq_once_memory_free(once);
    expect_all_done();
}

/* The group is moved while messages are in hand: their acks come too late, which is told. */
Test(client_push, acks_that_come_too_late_are_told)
{
    enum {
        COUNT = 20
    };
    send(0, COUNT, 0, 0);
    probe->keeps = true;
    struct qmq_push_options options = options_of(1);
    struct qmq_push *push = push_new(&options);
    probe_wait(probe, probe->kept_count == COUNT);
    struct qmq_control seek = { .kind = QMQ_CONTROL_SEEK, .start = QMQ_START_LATEST };
    expect_ok(qmq_group_control(client, "orders", "g", &seek, NULL, NULL));
    for (unsigned index = 0; index < COUNT; index++)
        expect_ok(qmq_delivery_ack(probe_take_kept(probe)));
    probe_wait(probe, probe->trouble_messages == COUNT);
    cr_assert_eq(probe->trouble_code, QMQ_EXPIRED);
    cr_assert_gt(probe->troubles[QMQ_TROUBLE_ACK], 0);
    while (info_of(push).held > 0)
        usleep(1000);
    cr_assert_eq(info_of(push).expired, COUNT);
    qmq_push_free(push);
}

/* What waited in here until others have it is not handled. */
Test(client_push, what_is_overdue_is_not_handled)
{
    send(0, 10, 0, 0);
    struct qmq_consumer_options brief = wanted;
    brief.invisible_ms = 300;
    struct qmq_push_options options = options_of(1);
    options.consumer = &brief;
    probe->is_closed = true;
    struct qmq_push *push = push_new(&options);
    probe_wait(probe, probe->running == 1);
    usleep(400000);
    probe_open(probe, true);
    while (info_of(push).overdue < 9)
        usleep(1000);
    /* They come again, and nothing is lost by it. */
    for (unsigned number = 0; number < 10; number++)
        probe_wait(probe, probe->seen[number] > 0);
    qmq_push_free(push);
}

/* Handed out is acknowledged: so an orderly end handles what is here first. */
Test(client_push, at_most_once_an_end_loses_nothing)
{
    enum {
        COUNT = 300
    };
    send(0, COUNT, 0, 0);
    struct qmq_consumer_options once = wanted;
    once.at_most_once = true;
    struct qmq_push_options options = options_of(2);
    options.consumer = &once;
    probe->is_closed = true;
    struct qmq_push *push = push_new(&options);
    probe_wait(probe, probe->running == 2);
    pthread_t thread;
    pthread_create(&thread, NULL, open_soon, probe);
    expect_ok(qmq_push_stop(push, WAIT_MS));
    pthread_join(thread, NULL);
    qmq_push_free(push);
    unsigned left = (unsigned)lag_now().ready;
    cr_assert_eq(probe->calls + left, COUNT);
    for (unsigned number = 0; number < COUNT; number++)
        cr_assert_leq(probe->seen[number], 1);
}

Test(client_push, goes_on_when_the_broker_comes_back)
{
    enum {
        COUNT = 2000
    };
    struct qmq_push_options options = options_of(4);
    options.prefetch_messages = 100;
    struct qmq_push *push = push_new(&options);
    for (unsigned round = 0; round < 4; round++) {
        send(round * COUNT / 4, COUNT / 4, KEYS, 0);
        cr_assert_eq(qmq_testing_restart(queue), QMQ_OK, "%s", qmq_testing_last_error().message);
    }
    probe_wait(probe, probe->calls >= COUNT);
    for (unsigned number = 0; number < COUNT; number++)
        cr_assert_eq(probe->seen[number], 1, "%u came %u times", number, probe->seen[number]);
    expect_ok(qmq_push_stop(push, WAIT_MS));
    qmq_push_free(push);
    cr_assert_eq(probe->disorders, 0);
    expect_all_done();
}

/* A consumer that comes back is given again what it held, cut by the limits of its pulls: a key runs on
 * from one pull to the next. */
Test(client_push, a_key_is_kept_from_one_pull_to_the_next)
{
    enum {
        FIRST = 240,
        COUNT = FIRST + 200
    };
    struct qmq_group_settings settings = { .strict = true };
    set_group(&settings);
    send(0, FIRST, 0, 1024);
    send(FIRST, COUNT - FIRST, 1, 1024);
    struct qmq_client_options other = { .meta = qmq_testing_meta(queue) };
    struct qmq_consumer_options from = wanted;
    from.consumer = "stable";
    from.no_prefetch = true;
    struct qmq_client *dying;
    struct qmq_consumer *consumer;
    expect_ok(qmq_connect(&other, &dying));
    expect_ok(qmq_consumer_new(dying, &from, &consumer));
    unsigned held = 0;
    for (unsigned max = FIRST; held < COUNT; max = 2 * COUNT) {
        struct qmq_batch *batch;
        expect_ok(qmq_pull(consumer, max, WAIT_MS, &batch));
        held += (unsigned)qmq_batch_count(batch);
        if (max == FIRST) expect_ok(qmq_ack(consumer, batch, 0, FIRST / 2));
        qmq_batch_free(batch);
    }

    struct qmq_push_options options = options_of(4);
    options.consumer = &from;
    struct qmq_push *push = push_new(&options);
    probe_wait(probe, probe->calls == COUNT - FIRST / 2);
    cr_assert_eq(probe->disorders, 0);
    expect_ok(qmq_push_stop(push, WAIT_MS));
    qmq_push_free(push);
    qmq_consumer_free(consumer);
    qmq_client_free(dying);
    expect_all_done();
}

/* What is kept is held, and leaves room for more than half: it comes, also when nothing else moves. */
Test(client_push, kept_messages_leave_the_rest_of_the_room)
{
    send(0, 60, 0, 0);
    probe->keeps = true;
    struct qmq_push_options options = options_of(1);
    options.prefetch_messages = 100;
    struct qmq_push *push = push_new(&options);
    probe_wait(probe, probe->kept_count == 60);
    send(60, 30, 0, 0);
    probe_wait(probe, probe->kept_count == 90);
    struct qmq_delivery *delivery;
    while ((delivery = probe_take_kept(probe)))
        expect_ok(qmq_delivery_ack(delivery));
    expect_ok(qmq_push_stop(push, WAIT_MS));
    qmq_push_free(push);
    expect_all_done();
}

static int
handle_and_count(void *context, const struct qmq_message *message, struct qmq_delivery *delivery)
{
    (void)message;
    (void)delivery;
    __atomic_fetch_add((unsigned *)context, 1, __ATOMIC_RELAXED);
    return 0;
}

/* Stops while messages come: what the broker has given is handled. */
Test(client_push, at_most_once_stops_lose_nothing_on_its_way)
{
    enum {
        ROUNDS = 8,
        COUNT = 1000
    };
    struct qmq_consumer_options once = wanted;
    once.at_most_once = true;
    unsigned handled = 0;
    struct qmq_push_options options = options_of(2);
    options.consumer = &once;
    options.handler = handle_and_count;
    options.context = &handled;
    options.prefetch_messages = 50;
    for (unsigned round = 0; round < ROUNDS; round++) {
        send(0, COUNT / ROUNDS, 0, 0);
        struct qmq_push *push = push_new(&options);
        usleep(round * 1000);
        expect_ok(qmq_push_stop(push, WAIT_MS));
        qmq_push_free(push);
    }
    struct qmq_lag lag = lag_now();
    cr_assert_eq(handled + lag.ready, ROUNDS * (COUNT / ROUNDS));
}

/* Groups that share what they remember do their own work each. */
Test(client_push, once_is_for_a_group)
{
    struct qmq_once *once;
    expect_ok(qmq_once_memory_new(NULL, &once));
    send(0, 10, 0, 0);
    struct qmq_consumer_options second = wanted;
    second.group = "h";
    struct qmq_push_options options = options_of(1);
    options.once = once;
    struct qmq_push *push = push_new(&options);
    options.consumer = &second;
    struct qmq_push *other = push_new(&options);
    probe_wait(probe, probe->calls == 20);
    expect_ok(qmq_push_stop(push, WAIT_MS));
    expect_ok(qmq_push_stop(other, WAIT_MS));
    cr_assert_eq(info_of(push).repeated + info_of(other).repeated, 0);
    qmq_push_free(push);
    qmq_push_free(other);
    qmq_once_memory_free(once);
}

/* A verdict that comes after the end calls nothing of the program's, which may be gone. */
Test(client_push, a_late_verdict_leaves_once_alone)
{
    struct qmq_once *once;
    expect_ok(qmq_once_memory_new(NULL, &once));
    send(0, 1, 0, 0);
    probe->keeps = true;
    struct qmq_push_options options = options_of(1);
    options.once = once;
    struct qmq_push *push = push_new(&options);
    probe_wait(probe, probe->kept_count == 1);
    qmq_push_free(push);
    qmq_once_memory_free(once);
    struct qmq_delivery *delivery = probe_take_kept(probe);
    cr_assert(qmq_delivery_key(delivery).size > 0);
    cr_assert_eq(qmq_delivery_ack(delivery), QMQ_STOPPING);
}

/* The end gives verdicts that are there their moment, whatever `wait_ms` is. */
Test(client_push, an_end_at_once_keeps_verdicts)
{
    enum {
        COUNT = 500
    };
    send(0, COUNT, 0, 0);
    struct qmq_push_options options = options_of(2);
    for (unsigned round = 0; probe->calls < COUNT; round++) {
        struct qmq_push *push = push_new(&options);
        unsigned wanted_calls = (round + 1) * COUNT / 8;
        probe_wait(probe, probe->calls >= (wanted_calls < COUNT ? wanted_calls : COUNT));
        qmq_push_free(push);
    }
    probe_expect_once(probe, 0, COUNT);
}

/* Another process takes the consumer's id: what waits here is its now. */
Test(client_push, a_replaced_consumer_handles_no_more)
{
    enum {
        COUNT = 200
    };
    send(0, COUNT, 0, 0);
    struct qmq_consumer_options from = wanted;
    from.consumer = "stable";
    probe->is_closed = true;
    struct qmq_push_options options = options_of(1);
    options.consumer = &from;
    struct qmq_push *push = push_new(&options);
    probe_wait(probe, probe->running == 1);
    struct qmq_client_options other = { .meta = qmq_testing_meta(queue) };
    struct qmq_client *client_2;
    struct qmq_consumer *consumer;
    expect_ok(qmq_connect(&other, &client_2));
    expect_ok(qmq_consumer_new(client_2, &from, &consumer));
    while (info_of(push).code != QMQ_CONSUMER_REPLACED)
        usleep(1000);
    probe_open(probe, true);
    cr_assert_neq(qmq_push_stop(push, WAIT_MS), QMQ_OK, "its verdict was refused");
    cr_assert_eq(probe->calls, 1);
    qmq_push_free(push);
    qmq_consumer_free(consumer);
    qmq_client_free(client_2);
}

Test(client_push, options_are_checked)
{
    struct qmq_push *push;
    struct qmq_push_options options = { .handler = probe_handle };
    cr_assert_eq(qmq_push_new(client, &options, &push), QMQ_INVALID);
    options = options_of(1);
    options.handler = NULL;
    cr_assert_eq(qmq_push_new(client, &options, &push), QMQ_INVALID);
    options = options_of(100000);
    cr_assert_eq(qmq_push_new(client, &options, &push), QMQ_TOO_BIG);
    options = options_of(1);
    options.filter_count = 9;
    cr_assert_eq(qmq_push_new(client, &options, &push), QMQ_TOO_BIG);
    struct qmq_consumer_options nowhere = { .subject = "orders" };
    options = options_of(1);
    options.consumer = &nowhere;
    cr_assert_eq(qmq_push_new(client, &options, &push), QMQ_INVALID);
    qmq_push_free(NULL);
}
