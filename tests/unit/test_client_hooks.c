/*
 * What a client tells of itself: log and counters; its place in a foreign event loop, and in a child that
 * should not use it.
 */
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include <qmq/testing.h>

enum {
    PATIENCE_MS = 60 * 1000,
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char lines[64][200];
static unsigned line_count;

static void
on_line(void *context, enum qmq_level level, const char *text)
{
    cr_assert_str_eq(context, "mine");
    cr_assert(level >= QMQ_LOG_ERROR && level <= QMQ_LOG_INFO);
    pthread_mutex_lock(&lock);
    if (line_count < 64) (void)snprintf(lines[line_count++], sizeof(lines[0]), "%s", text);
    pthread_mutex_unlock(&lock);
}

static bool
was_told(const char *part)
{
    bool found = false;
    pthread_mutex_lock(&lock);
    for (unsigned index = 0; index < line_count; index++)
        found |= strstr(lines[index], part) != NULL;
    pthread_mutex_unlock(&lock);
    return found;
}

/* Until it is true; the test's own time-out ends it. */
#define WAIT_UNTIL(condition)                                                                      \
    while (!(condition))                                                                           \
    (void)usleep(1000)

static struct qmq_testing *queue;
static struct qmq_client *client;

static void
start(void)
{
    cr_assert_eq(qmq_testing_start(NULL, &queue), QMQ_OK);
    const struct qmq_client_options options = {
        .meta = qmq_testing_meta(queue),
        .log = on_line,
        .log_context = (void *)"mine",
    };
    cr_assert_eq(qmq_connect(&options, &client), QMQ_OK, "%s", qmq_last_error().message);
}

static void
stop(void)
{
    qmq_client_free(client);
    cr_assert_eq(qmq_testing_stop(queue), QMQ_OK);
}

struct wanted {
    const char *name;
    uint64_t value;
    unsigned found;
};

static void
on_metric(void *context, const struct qmq_metric *metric)
{
    struct wanted *wanted = context;
    cr_assert_gt(strlen(metric->meaning), 0);
    if (strcmp(metric->name, wanted->name) != 0) return;
    wanted->value = metric->value;
    wanted->found++;
}

static uint64_t
count(const char *name)
{
    struct wanted wanted = { .name = name };
    qmq_metrics(client, on_metric, &wanted);
    cr_assert_eq(wanted.found, 1, "%s", name);
    return wanted.value;
}

static struct qmq_consumer *
join(void)
{
    const struct qmq_consumer_options options = { .subject = "orders", .group = "g" };
    struct qmq_consumer *consumer;
    cr_assert_eq(
        qmq_consumer_new(client, &options, &consumer), QMQ_OK, "%s", qmq_last_error().message);
    return consumer;
}

Test(client_hooks, everything_is_counted, .timeout = 120)
{
    start();
    struct qmq_producer *producer;
    const struct qmq_outgoing message = { .body = { "hello", 5 } };
    cr_assert_eq(qmq_producer_new(client, NULL, &producer), QMQ_OK);
    for (unsigned index = 0; index < 100; index++)
        cr_assert_eq(qmq_send(producer, "orders", &message, NULL, NULL), QMQ_OK);
    cr_assert_eq(qmq_flush(producer, PATIENCE_MS), QMQ_OK);
    cr_assert_eq(count("sent"), 100);
    cr_assert_eq(count("stored"), 100);
    cr_assert_eq(count("failed"), 0);
    cr_assert_eq(count("in_flight"), 0);
    cr_assert(count("requests") >= 1 && count("requests") <= 100);

    struct qmq_consumer *consumer = join();
    unsigned got = 0;
    while (got < 100) {
        struct qmq_batch *batch;
        cr_assert_eq(qmq_pull(consumer, 0, PATIENCE_MS, &batch), QMQ_OK);
        size_t size = qmq_batch_count(batch);
        cr_assert_eq(qmq_ack(consumer, batch, 0, size), QMQ_OK);
        qmq_batch_free(batch);
        got += (unsigned)size;
    }
    cr_assert_eq(count("pulled"), 100);
    cr_assert_eq(count("acked"), 100);
    cr_assert_eq(count("nacked"), 0);
    cr_assert_geq(count("pulls"), 1);
    cr_assert_geq(count("connects"), 2);
    cr_assert_eq(count("lost"), 0);
    qmq_consumer_free(consumer);
    qmq_producer_free(producer);
    stop();
    cr_assert_not(was_told("lost"), "what was closed was not lost");
}

Test(client_hooks, a_lost_connection_is_told, .timeout = 120)
{
    start();
    struct qmq_producer *producer;
    const struct qmq_outgoing message = { .body = { "hello", 5 } };
    cr_assert_eq(qmq_producer_new(client, NULL, &producer), QMQ_OK);
    cr_assert_eq(qmq_send_wait(producer, "orders", &message, NULL), QMQ_OK);
    cr_assert(was_told("connected to inproc://"));

    cr_assert_eq(qmq_testing_restart(queue), QMQ_OK);
    cr_assert_eq(qmq_send_wait(producer, "orders", &message, NULL), QMQ_OK);
    WAIT_UNTIL(was_told("is lost") && was_told(" again"));
    WAIT_UNTIL(count("lost") >= 1 && count("reconnects") >= 1);
    qmq_producer_free(producer);
    stop();
}

static unsigned told;
static pthread_t told_on;

static void
on_sent(void *context, const struct qmq_sent *sent)
{
    (void)context;
    cr_assert_eq(sent->code, QMQ_OK);
    cr_assert(pthread_equal(pthread_self(), told_on), "on the thread of the loop");
    told++;
}

static bool
is_readable(int fd, int wait_ms)
{
    struct pollfd wanted = { .fd = fd, .events = POLLIN };
    return poll(&wanted, 1, wait_ms) == 1;
}

Test(client_hooks, a_producer_in_a_foreign_loop, .timeout = 120)
{
    start();
    told_on = pthread_self();
    struct qmq_producer *producer;
    const struct qmq_producer_options options = { .foreign_loop = true };
    const struct qmq_outgoing message = { .body = { "hello", 5 } };
    cr_assert_eq(qmq_producer_new(client, &options, &producer), QMQ_OK);
    int fd = qmq_producer_fd(producer);
    cr_assert_geq(fd, 0);
    cr_assert_not(is_readable(fd, 0));
    cr_assert_eq(qmq_producer_dispatch(producer), QMQ_OK);

    for (unsigned round = 1; round <= 20; round++) {
        for (unsigned index = 0; index < 10; index++)
            cr_assert_eq(qmq_send(producer, "orders", &message, on_sent, NULL), QMQ_OK);
        while (told < round * 10) {
            cr_assert(is_readable(fd, PATIENCE_MS));
            cr_assert_eq(qmq_producer_dispatch(producer), QMQ_OK);
        }
        cr_assert_eq(told, round * 10);
    }
    cr_assert_eq(qmq_producer_dispatch(producer), QMQ_OK);
    cr_assert_not(is_readable(fd, 0));

    cr_assert_eq(qmq_send_wait(producer, "orders", &message, NULL), QMQ_INVALID);
    cr_assert_eq(qmq_send(producer, "orders", &message, on_sent, NULL), QMQ_OK);
    cr_assert_eq(qmq_flush(producer, PATIENCE_MS), QMQ_OK);
    cr_assert_eq(told, 201, "a flush dispatches");
    cr_assert_eq(qmq_send(producer, "orders", &message, on_sent, NULL), QMQ_OK);
    cr_assert(is_readable(fd, PATIENCE_MS));
    qmq_producer_free(producer);
    cr_assert_eq(told, 202, "and so does the end");

    cr_assert_eq(qmq_producer_new(client, NULL, &producer), QMQ_OK);
    cr_assert_eq(qmq_producer_fd(producer), -1);
    cr_assert_eq(qmq_producer_dispatch(producer), QMQ_INVALID);
    qmq_producer_free(producer);
    stop();
}

/* Its memory is bounded, and it is the loop that frees it. */
Test(client_hooks, a_foreign_loop_never_waits, .timeout = 120)
{
    start();
    told_on = pthread_self();
    struct qmq_producer *producer;
    const struct qmq_producer_options options = { .foreign_loop = true, .memory_bytes_max = 25000 };
    const struct qmq_outgoing message = { .body = { "hello", 5 } };
    cr_assert_eq(qmq_producer_new(client, &options, &producer), QMQ_OK);
    unsigned taken = 0;
    while (qmq_send(producer, "orders", &message, on_sent, NULL) == QMQ_OK)
        taken++;
    cr_assert_eq(qmq_last_error().code, QMQ_BUSY);
    while (told < taken) {
        cr_assert(is_readable(qmq_producer_fd(producer), PATIENCE_MS));
        cr_assert_eq(qmq_producer_dispatch(producer), QMQ_OK);
    }
    cr_assert_eq(qmq_send(producer, "orders", &message, on_sent, NULL), QMQ_OK);
    cr_assert_eq(qmq_flush(producer, PATIENCE_MS), QMQ_OK);
    qmq_producer_free(producer);
    stop();
}

Test(client_hooks, a_foreign_loop_does_not_wait_for_a_route, .timeout = 120)
{
    start();
    told_on = pthread_self();
    struct qmq_producer *producer;
    const struct qmq_producer_options options = { .foreign_loop = true };
    const struct qmq_outgoing message = { .body = { "hello", 5 }, .order_key = { "k", 1 } };
    cr_assert_eq(qmq_producer_new(client, &options, &producer), QMQ_OK);
    int fd = qmq_producer_fd(producer);
    int code;
    while ((code = qmq_send(producer, "orders", &message, on_sent, NULL)) == QMQ_BUSY) {
        cr_assert(is_readable(fd, PATIENCE_MS), "the route has come");
        cr_assert_eq(qmq_producer_dispatch(producer), QMQ_OK);
    }
    cr_assert_eq(code, QMQ_OK);
    while (told < 1) {
        cr_assert(is_readable(fd, PATIENCE_MS));
        cr_assert_eq(qmq_producer_dispatch(producer), QMQ_OK);
    }
    cr_assert_eq(qmq_producer_dispatch(producer), QMQ_OK);
    cr_assert_not(is_readable(fd, 0));
    qmq_producer_free(producer);
    stop();
}

Test(client_hooks, a_consumer_in_a_foreign_loop, .timeout = 120)
{
    start();
    struct qmq_producer *producer;
    const struct qmq_outgoing message = { .body = { "hello", 5 } };
    cr_assert_eq(qmq_producer_new(client, NULL, &producer), QMQ_OK);
    cr_assert_eq(qmq_send_wait(producer, "orders", &message, NULL), QMQ_OK);
    struct qmq_consumer *consumer = join();
    int fd;
    cr_assert_eq(qmq_consumer_fd(consumer, &fd), QMQ_OK);

    unsigned sent = 1;
    unsigned got = 0;
    while (got < 50) {
        cr_assert(is_readable(fd, PATIENCE_MS));
        struct qmq_batch *batch;
        int code = qmq_pull_now(consumer, 0, &batch);
        if (code == QMQ_OK) {
            got += (unsigned)qmq_batch_count(batch);
            cr_assert_eq(qmq_ack(consumer, batch, 0, qmq_batch_count(batch)), QMQ_OK);
            qmq_batch_free(batch);
        } else {
            cr_assert_eq(code, QMQ_AGAIN, "%s", qmq_last_error().message);
        }
        if (got == sent && got < 50) {
            cr_assert_eq(qmq_send_wait(producer, "orders", &message, NULL), QMQ_OK);
            sent++;
        }
    }
    cr_assert_eq(got, 50);

    /* Without messages it is quiet soon. */
    struct qmq_batch *batch;
    while (is_readable(fd, 0))
        cr_assert_eq(qmq_pull_now(consumer, 0, &batch), QMQ_AGAIN);
    cr_assert_eq(qmq_pull_now(consumer, 0, &batch), QMQ_AGAIN);
    qmq_consumer_stop(consumer);
    cr_assert(is_readable(fd, 0));
    cr_assert_eq(qmq_pull_now(consumer, 0, &batch), QMQ_STOPPING);
    qmq_consumer_free(consumer);
    qmq_producer_free(producer);
    stop();
}

/* 0: every call said that it can't. */
static int
use_in_child(struct qmq_producer *producer, struct qmq_consumer *consumer)
{
    const struct qmq_outgoing message = { .body = { "hello", 5 } };
    struct qmq_producer *another;
    struct qmq_batch *batch;
    struct qmq_consumer_info info;
    const struct qmq_consumer_options options = { .subject = "orders", .group = "g" };
    struct qmq_consumer *second;
    int fd;
    if (qmq_send(producer, "orders", &message, NULL, NULL) != QMQ_INVALID) return 1;
    if (!strstr(qmq_last_error().message, "forked")) return 2;
    if (qmq_send_wait(producer, "orders", &message, NULL) != QMQ_INVALID) return 3;
    if (qmq_flush(producer, PATIENCE_MS) != QMQ_INVALID) return 4;
    if (qmq_producer_new(client, NULL, &another) != QMQ_INVALID) return 5;
    if (qmq_pull(consumer, 0, PATIENCE_MS, &batch) != QMQ_INVALID) return 6;
    if (qmq_pull_now(consumer, 0, &batch) != QMQ_INVALID) return 7;
    if (qmq_consumer_fd(consumer, &fd) != QMQ_INVALID) return 8;
    if (qmq_consumer_new(client, &options, &second) != QMQ_INVALID) return 9;
    if (qmq_groups(client, NULL, NULL, NULL) != QMQ_INVALID) return 10;
    qmq_consumer_info(consumer, &info);
    qmq_consumer_stop(consumer);
    qmq_consumer_free(consumer);
    qmq_producer_free(producer);
    qmq_client_free(client);
    return 0;
}

Test(client_hooks, a_child_is_told, .timeout = 120)
{
    start();
    struct qmq_producer *producer;
    cr_assert_eq(qmq_producer_new(client, NULL, &producer), QMQ_OK);
    struct qmq_consumer *consumer = join();
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) _exit(use_in_child(producer, consumer));
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", (unsigned)status);

    const struct qmq_outgoing message = { .body = { "hello", 5 } };
    cr_assert_eq(qmq_send_wait(producer, "orders", &message, NULL), QMQ_OK, "nothing has changed");
    qmq_consumer_free(consumer);
    qmq_producer_free(producer);
    stop();
}
